"""The worst samples of a validation that two ranks share are the worst of all (P6, P7, W13)."""

from __future__ import annotations

from typing import Any

import pytest

from distributed.compare import unlike
from distributed.held_out import SAMPLES
from distributed.launch import Outcome, launch

pytestmark = pytest.mark.multiprocess
AT = [3, 7]
"""Steps after which a validation runs."""


@pytest.fixture
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return launch("held_out", tmp_path_factory)


def newest(result: dict[str, Any]) -> dict[str, Any]:
    (looks,) = result["shown"].values()
    assert [step for step, _ in looks] == AT
    content: dict[str, Any] = looks[-1][1]
    return content


def reference(*results: dict[str, Any]) -> list[tuple[int, float]]:
    """Return index and loss of all samples, worst first, as the ranks computed them one by one."""
    losses = {number: loss for result in results for number, loss in result["validated"]}
    return sorted(losses.items(), key=lambda item: -item[1])


def assert_worst(content: dict[str, Any], expected: list[tuple[int, float]]) -> None:
    assert content["samples"] == len(expected)
    assert [one["index"] for one in content["examples"]] == [index for index, _ in expected[:16]]
    for one, (_, loss) in zip(content["examples"], expected, strict=False):
        assert one["loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("scenario", ["in_order", "shuffled", "one_by_one"])
def test_the_worst_of_two_ranks_are_the_worst_of_all_with_true_indices(
    outcome: Outcome, scenario: str
) -> None:
    """What fills up the shorter rank is neither counted nor shown twice."""
    first, second = outcome.of(scenario)
    expected = reference(first, second)
    assert len(expected) == SAMPLES
    assert len(first["validated"]) + len(second["validated"]) == SAMPLES + 1
    content = newest(first)
    assert_worst(content, expected)
    assert {one["rank"] for one in content["examples"]} == {0, 1}


def test_two_ranks_show_what_one_shows(outcome: Outcome) -> None:
    together, alone = newest(outcome.of("in_order")[0]), newest(outcome.alone("in_order"))
    assert_worst(alone, reference(outcome.alone("in_order")))
    for one, other in zip(together["examples"], alone["examples"], strict=True):
        assert (one["index"], one["target"]) == (other["index"], other["target"])
        assert one["pixels"] == other["pixels"]


@pytest.mark.parametrize("scenario", ["in_order", "shuffled", "one_by_one", "by_hand", "failing"])
def test_both_ranks_hold_the_same(outcome: Outcome, scenario: str) -> None:
    first, second = outcome.of(scenario)
    assert not unlike(first["shown"], second["shown"])
    assert first["weights"] == second["weights"]


def test_a_rank_whose_loss_is_not_seen_costs_only_its_samples(outcome: Outcome) -> None:
    first, second = outcome.of("by_hand")
    content = newest(first)
    assert_worst(content, reference(first))
    assert {one["rank"] for one in content["examples"]} == {0}
    assert first["warnings"] == second["warnings"] == []


def test_a_look_that_fails_on_one_rank_is_silent_on_all(outcome: Outcome) -> None:
    first, second = outcome.of("failing")
    assert first["shown"] == {}
    assert "Fails is switched off" in second["warnings"][0]
    assert first["warnings"] == []
    assert first["weights"] == outcome.of("in_order")[0]["weights"]
