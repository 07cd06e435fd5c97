"""Regression targets far from what a network gives at first."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.unscaled_target import UnscaledTarget
from rules.loss_stories import loss_story

OUTPUT = {"output/mean": 0.05, "output/std": 0.2}


def found(
    mean: float, std: float, unexplained: float, start: float | None = None, **options: Any
) -> str | None:
    history = loss_story(
        lambda step: {
            **OUTPUT,
            "target/mean": mean,
            "target/std": std,
            "target/unexplained_ratio": unexplained if start is None or step > 30 else start,
        },
        function="mse_loss",
        **options,
    )
    findings = UnscaledTarget()(history)
    return findings[0].message if findings else None


@pytest.mark.parametrize(
    ("mean", "std", "unexplained"),
    [(300.0, 1.0, 9e4), (0.0, 1000.0, 0.98), (-50.0, 10.0, 20.0), (0.0, 1e-3, 40.0)],
    ids=["offset", "scale", "both", "tiny"],
)
def test_it_fires(mean: float, std: float, unexplained: float) -> None:
    message = found(mean, std, unexplained)
    assert message is not None
    assert "times off (threshold 20)" in message


def test_a_loss_that_is_lost_counts_too() -> None:
    message = found(300.0, 1.0, float("nan"))
    assert message is not None
    assert "infinitely many times" in message
    assert message == found(300.0, 1.0, float("inf"))


@pytest.mark.parametrize(
    ("mean", "std", "unexplained"),
    [(0.1, 1.0, 0.9), (2.0, 3.0, 1.0), (300.0, 1.0, 0.2), (0.0, 1000.0, 0.4), (0.0, 0.02, 0.9)],
    ids=["standardised", "a little off", "learned offset", "learned scale", "smaller"],
)
def test_it_is_silent_on_what_looks_alike(mean: float, std: float, unexplained: float) -> None:
    """P20: any scale is fine that is learned."""
    assert found(mean, std, unexplained) is None


def test_predictions_that_are_too_large_are_no_matter_of_the_targets() -> None:
    """Those of inputs in thousands, against targets of the usual size."""

    def run(output: float, target: float) -> bool:
        numbers = {"output/std": output, "target/std": target, "target/mean": 0.0}
        numbers["target/unexplained_ratio"] = 30.0
        return bool(UnscaledTarget()(loss_story(lambda step: numbers, function="mse_loss")))

    assert not run(100.0, 1.0)
    assert run(1.0, 0.01)
    assert run(100.0, 0.01)


def test_a_scale_that_is_learned_in_time_is_fine() -> None:
    assert found(300.0, 1.0, 0.1, start=9e4) is None


def test_classes_are_not_judged() -> None:
    verdict = UnscaledTarget().check(loss_story(lambda step: {"target/std": 1.0}))
    assert isinstance(verdict, NotObserved)


def test_a_run_that_goes_on_from_a_checkpoint_is_not_judged() -> None:
    """What first predictions were is not known."""
    history = loss_story(
        lambda step: {"target/mean": 300.0, "target/unexplained_ratio": 9e4},
        function="mse_loss",
    )
    history.meta["losses"]["mse_loss#0"]["first"]["step"] = 500
    assert UnscaledTarget()(history) == []
