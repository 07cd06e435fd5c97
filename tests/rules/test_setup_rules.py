"""`frozen-but-changing`, `eval-mode-with-trainable-parameters` and `rank-divergence`."""

from __future__ import annotations

import pytest

from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.eval_mode_with_trainable_parameters import (
    EvalModeWithTrainableParameters,
)
from lightning_diag.rules.frozen_but_changing import FrozenButChanging
from lightning_diag.rules.rank_divergence import RankDivergence
from rules.setup_stories import setup
from rules.stories import STEPS, layer, story, weight


def test_parameters_that_an_optimizer_moves_are_named() -> None:
    """P3."""
    moved = {"": 1.0, weight(0): 1.0, weight(1): 1.0}
    change = setup("frozen_changed", lambda step: moved if step >= 30 else {"": 0.0})
    (finding,) = FrozenButChanging()(story(change))
    assert finding.severity == "suspect"
    assert finding.places == (weight(0), weight(1))
    assert finding.message == (
        "The optimizer changes `net.0.weight` and `net.1.weight` though frozen (2 in all, since "
        "step 31)."
    )
    assert "zero_grad" in finding.remedy


def test_statistics_that_move_have_a_remedy_of_their_own() -> None:
    """P3."""
    change = setup("frozen_changed", lambda step: {"": 1.0, layer(2): 1.0})
    (finding,) = FrozenButChanging()(story(change))
    assert finding.message.startswith("The running statistics of `net.2` move")
    assert ".eval()" in finding.remedy
    assert "zero_grad" not in finding.remedy


@pytest.mark.parametrize(("least", "found"), [(1, 1), (2, 0)])
def test_the_threshold_is_a_number_of_places(least: int, found: int) -> None:
    change = setup("frozen_changed", lambda step: {"": 1.0, layer(2): 1.0})
    assert len(FrozenButChanging(least=least)(story(change))) == found


def test_what_is_frozen_and_stands_still_is_healthy() -> None:
    assert FrozenButChanging()(story(setup("frozen_changed", lambda step: {"": 0.0}))) == []
    assert isinstance(FrozenButChanging().check(story()), NotObserved)


def test_trained_layers_in_eval_mode_are_named_while_they_are() -> None:
    """P48."""
    change = setup("eval_mode", lambda step: {"": 1.0, layer(1): 1.0} if step >= 100 else {"": 0.0})
    (finding,) = EvalModeWithTrainableParameters()(story(change))
    assert finding.severity == "suspect"
    assert finding.places == (layer(1),)
    assert finding.message == (
        "In evaluation mode while training, since step 102: `net.1` and what is trained around "
        "it, so dropout is off and running statistics stand still."
    )


def test_a_mode_that_was_put_right_is_no_longer_spoken_of() -> None:
    change = setup("eval_mode", lambda step: {"": float(step < 100), layer(1): float(step < 100)})
    assert EvalModeWithTrainableParameters()(story(change)) == []
    assert EvalModeWithTrainableParameters()(story(change, steps=STEPS[:9])) != []


@pytest.mark.parametrize(("newest", "found"), [(2, 1), (1, 0)])
def test_the_newest_steps_must_agree(newest: int, found: int) -> None:
    since = STEPS[-newest]
    change = setup(
        "eval_mode", lambda step: {"": float(step >= since), layer(1): float(step >= since)}
    )
    assert len(EvalModeWithTrainableParameters()(story(change))) == found


@pytest.mark.parametrize(("share", "found"), [(0.5, 1), (0.49, 0)])
def test_eval_mode_that_changes_nothing_is_a_note(share: float, found: int) -> None:
    def change(step: int, values: dict[str, dict[str, float]]) -> None:
        values["setup/eval_mode"] = {"": 0.0}
        values["setup/eval_share"] = {"": share}

    findings = EvalModeWithTrainableParameters()(story(change))
    assert [finding.severity for finding in findings] == ["note"] * found


def test_ranks_that_drift_apart_are_found_at_once() -> None:
    """P1."""
    apart = {weight(1): 0.01, weight(2): 0.003}
    change = setup(
        "rank_difference",
        lambda step: {weight(0): 0.0, **(apart if step >= 200 else dict.fromkeys(apart, 0.0))},
    )
    (finding,) = RankDivergence()(story(change))
    assert finding.severity == "bad"
    assert finding.places == (weight(1), weight(2))
    assert finding.message == (
        "Ranks hold different weights: `net.1.weight` and `net.2.weight` (2 of 3 parameters); "
        "sums over `net.1.weight` differ by 0.01 of its norm at step 399 (threshold 1e-05)."
    )


@pytest.mark.parametrize(("difference", "found"), [(1.1e-5, 1), (1e-5, 0), (1e-7, 0), (0.0, 0)])
def test_rounding_is_no_difference(difference: float, found: int) -> None:
    change = setup("rank_difference", lambda step: {weight(0): difference})
    assert len(RankDivergence()(story(change))) == found


def test_one_rank_is_not_judged() -> None:
    verdict = RankDivergence().check(story())
    assert verdict == NotObserved(
        "rank-divergence", "there is one rank, or ranks hold different parts"
    )
