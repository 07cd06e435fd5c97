"""After every stage the ranks' weights are the same, bit for bit (P1, R1)."""

from __future__ import annotations

import pytest

from distributed.freezing import CASES, EPOCHS
from distributed.launch import Outcome, launch

pytestmark = pytest.mark.multiprocess


@pytest.fixture
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return launch("freezing", tmp_path_factory)


@pytest.mark.parametrize("case", [f"{name}-{n}" for name, n in CASES])
def test_ranks_agree_after_every_stage(outcome: Outcome, case: str) -> None:
    """P1, P31: with unused parameters looked for and not, with a static graph, in bucket views."""
    for rank in outcome.of("stages"):
        assert rank[case]["apart"] == [0.0] * EPOCHS
        assert rank[case]["trainable"] == [2, 6, 12, 12]


def test_a_plateau_of_unlike_metrics_is_one_for_all_ranks(outcome: Outcome) -> None:
    first, second = outcome.of("plateau")
    assert first == second
    assert first["apart"] == [0.0] * 7
    assert sorted(set(first["trainable"])) == [2, 6, 10]


def test_a_wrapper_goes_when_the_next_one_comes_and_gradients_are_reduced_once(
    outcome: Outcome,
) -> None:
    for rank in outcome.of("wrappers"):
        for found in rank.values():
            assert found["wrappers"] == 3
            assert found["error"] < 1e-6
        assert set(rank["left"]["alive"]) == {1}
        assert set(rank["held"]["alive"]) == {1, 2, 3}


def test_two_ranks_resume_around_every_stage_boundary(outcome: Outcome) -> None:
    """P2: bit for bit what was never interrupted."""
    for rank in outcome.of("resumed"):
        assert rank == {str(epoch): [] for epoch in range(EPOCHS - 1)}


def test_ranks_agree_under_manual_optimisation(outcome: Outcome) -> None:
    for rank in outcome.of("manual"):
        assert rank == {name: [0.0] * EPOCHS for name in ("plain", "find_unused")}


def test_lightnings_own_callback_lets_the_ranks_drift_apart(outcome: Outcome) -> None:
    """P1, R1: why this package has one. If it fails, Lightning has mended it: tell the docs."""
    for frozen, thawed in outcome.of("lightnings_own"):
        assert frozen == {"backbone": 0.0, "head": 0.0}
        assert thawed["backbone"] > 1e-3
        assert thawed["head"] == 0.0
