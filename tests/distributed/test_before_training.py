"""One rank checks, all know what it found, and none waits for another (P26)."""

from __future__ import annotations

import pytest

from distributed.launch import Outcome, launch

pytestmark = pytest.mark.multiprocess


@pytest.fixture
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return launch("before_training", tmp_path_factory)


def test_weights_and_random_states_are_those_of_a_training_without_checks(
    outcome: Outcome,
) -> None:
    for scenario in ("checked", "joining"):
        for result in outcome.of(scenario):
            for name in ("weights", "random"):
                assert result["with"][name] == result["without"][name]


def test_all_ranks_know_what_the_first_one_found(outcome: Outcome) -> None:
    first, second = (result["sick"]["findings"] for result in outcome.of("checked"))
    assert first == second
    assert [finding["code"] for finding in first] == ["parameter-not-in-optimizer"]
    assert "parameter-not-in-optimizer  before training" in (outcome.folder / "0.log").read_text()
    assert "before training" not in (outcome.folder / "1.log").read_text()


def test_a_step_that_joins_ranks_is_not_observed_instead_of_waited_for(outcome: Outcome) -> None:
    for result in outcome.of("joining"):
        reasons = result["with"]["not_observed"]
        assert reasons.keys() == {"initial-loss", "missing-gradient"}
        assert all("process group" in reason for reason in reasons.values())


def test_all_ranks_refuse_to_begin(outcome: Outcome) -> None:
    first, second = outcome.of("refused")
    assert first == second
    assert first.startswith("Training was not begun, since `stop_on` names `parameter-not-in")
