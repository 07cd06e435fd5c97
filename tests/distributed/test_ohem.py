"""Two ranks choose the hard examples that one process with the joined batch chooses (H2, P28)."""

from __future__ import annotations

import pytest

from distributed.launch import Outcome, launch
from distributed.ohem import RULES, SIZES

pytestmark = pytest.mark.multiprocess


@pytest.fixture
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return launch("ohem", tmp_path_factory)


@pytest.mark.parametrize("rule", RULES)
def test_loss_and_gradient_are_those_of_the_joined_batch(outcome: Outcome, rule: str) -> None:
    """Batches are unequal, and empty on one rank or both; DDP has averaged the gradients."""
    ranks = [result[rule] for result in outcome.of("steps")]
    for step, wanted in enumerate(outcome.alone("steps")[rule]):
        for rank in ranks:
            found = rank[step]
            assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-6), SIZES[step]
            assert found["gradient"] == pytest.approx(wanted["gradient"], rel=1e-5, abs=1e-7)
            assert (found["kept"], found["valid"]) == (wanted["kept"], wanted["valid"])
        assert ranks[0][step]["loss"] == ranks[1][step]["loss"]
    assert any(wanted["kept"] < wanted["valid"] for wanted in outcome.alone("steps")[rule])


def test_there_is_one_collective_a_step_but_where_a_batch_is_longer_than_any_before(
    outcome: Outcome,
) -> None:
    for result in outcome.of("steps"):
        assert [step["collectives"] for step in result["share"]] == [2, 2, 1, 1, 1, 1]
    assert [step["collectives"] for step in outcome.alone("steps")["share"]] == [0] * len(SIZES)


def test_one_rank_may_evaluate_alone(outcome: Outcome) -> None:
    assert outcome.of("evaluated")[0] == outcome.alone("evaluated")


def test_accumulated_batches_of_all_ranks_train_as_the_joined_one_does(outcome: Outcome) -> None:
    first, second = (result["all"] for result in outcome.of("fits"))
    alone = outcome.alone("fits")
    assert first["weight"] == second["weight"]
    assert first["weight"] == pytest.approx(alone["alone"]["weight"], rel=1e-5, abs=1e-6)
    assert alone["all"]["weight"] == pytest.approx(alone["alone"]["weight"], rel=1e-5, abs=1e-6)


def test_numbers_are_logged_for_all_ranks_though_one_has_a_logger(outcome: Outcome) -> None:
    first, second = (result["all"] for result in outcome.of("fits"))
    wanted = outcome.alone("fits")["alone"]["rows"]
    assert second["rows"] == []
    assert [row["mining/kept_fraction/criterion"] for row in first["rows"]] == pytest.approx(
        [1.0] * 3 + [5 / 16] * 3
    )
    for mine, theirs in zip(first["rows"], wanted, strict=True):
        assert {name: value for name, value in mine.items() if name in theirs} == pytest.approx(
            theirs, rel=1e-5
        )
