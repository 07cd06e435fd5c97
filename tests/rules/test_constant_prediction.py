"""A network that answers all samples alike."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.constant_prediction import ConstantPrediction
from rules.loss_stories import loss_story, stuck
from rules.stories import meta

SPREAD = "output/sample_spread"


def severity(numbers: Any, **options: Any) -> str | None:
    findings = ConstantPrediction()(loss_story(numbers, loss=stuck, **options))
    return findings[0].severity if findings else None


def test_equal_scores_are_bad_and_nearly_equal_ones_suspect() -> None:
    assert severity(lambda step: {SPREAD: 0.0}) == "bad"
    assert severity(lambda step: {SPREAD: 1e-3, "output/std": 2.0}) == "suspect"


@pytest.mark.parametrize(
    "numbers",
    [
        lambda step: {SPREAD: 0.01, "output/std": 1.0},  # an early plateau
        lambda step: {SPREAD: 0.0 if step < 50 else 0.5},
        lambda step: {SPREAD: 0.0 if step % 2 else 0.5},
        lambda step: {SPREAD: 0.0, "class/majority_share": 0.99},
    ],
    ids=["plateau", "start", "now and then", "one class"],
)
def test_it_is_silent_on_what_looks_alike(numbers: Any) -> None:
    """P20."""
    assert severity(numbers) is None


def test_a_regression_is_judged_by_the_spread_of_its_targets() -> None:
    tiny = {SPREAD: 1.0, "output/std": 1e-4, "target/std": 1e-3}
    assert severity(lambda step: tiny, function="mse_loss") is None
    assert severity(lambda step: tiny | {"target/std": 1.0}, function="mse_loss") == "suspect"
    equal = tiny | {"target/std": 0.0}
    assert severity(lambda step: equal, function="mse_loss") is None


def test_probabilities_and_players_are_not_judged() -> None:
    """P35: what is bounded spreads little; players may agree."""
    same = {SPREAD: 0.0}
    assert severity(lambda step: same, call={"activation": "softmax"}) is None
    about = {"optimizers": meta(optimizers=["Adam", "Adam"])["optimizers"]}
    verdict = ConstantPrediction().check(loss_story(lambda step: same, about=about))
    assert isinstance(verdict, NotObserved)
