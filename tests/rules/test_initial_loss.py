"""A first loss far above that of an answer without knowledge (C1)."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.initial_loss import InitialLoss
from rules.loss_stories import loss_story
from rules.stories import LAYERS, meta


def found(first: float, function: str = "cross_entropy", **options: Any) -> str | None:
    numbers = options.pop("numbers", {})
    findings = InitialLoss()(
        loss_story(
            lambda step: numbers, function=function, loss=lambda s: first / (1 + s / 50), **options
        )
    )
    return findings[0].message if findings else None


@pytest.mark.parametrize(
    ("first", "function", "call", "expected"),
    [
        (6.0, "cross_entropy", {}, "ln 10 = 2.3"),
        (6.0, "nll_loss", {"classes": 3}, "ln 3 = 1.1"),
        (3.0, "binary_cross_entropy_with_logits", {}, "ln 2 = 0.693"),
        (5.0, "multi_margin_loss", {}, "9/10"),
        (32 * 6.0, "cross_entropy", {"reduction": "sum"}, "ln 10"),
    ],
)
def test_it_fires(first: float, function: str, call: dict[str, Any], expected: str) -> None:
    message = found(first, function, call=call)
    assert message is not None
    assert expected in message


@pytest.mark.parametrize(
    ("first", "function", "call"),
    [
        (math.log(10), "cross_entropy", {}),
        (4.6, "cross_entropy", {}),
        (0.01, "cross_entropy", {}),  # trained before
        (1.5, "binary_cross_entropy_with_logits", {}),
        (9.0, "binary_cross_entropy_with_logits", {"weighted": True}),
        (32 * 2.4, "cross_entropy", {"reduction": "sum"}),
        (60.0, "mse_loss", {}),
        (60.0, "gaussian_nll_loss", {}),
    ],
)
def test_it_is_silent_on_what_looks_alike(
    first: float, function: str, call: dict[str, Any]
) -> None:
    """P20."""
    assert found(first, function, call=call) is None


@pytest.mark.parametrize(("first", "is_found"), [(6.9, False), (9.9, True)])
def test_a_first_batch_of_one_class_is_the_loss_of_a_single_score(
    first: float, is_found: bool
) -> None:
    """Twice as much is asked for then."""
    one = {"class/majority_share": 1.0}
    assert found(first) is not None
    assert (found(first, numbers=one) is not None) == is_found


def test_loud_predictions_of_a_regression_count() -> None:
    loud = {"output/std": 40.0, "target/std": 1.0}
    message = found(1600.0, "mse_loss", numbers=loud)
    assert message is not None
    assert "size of 40" in message
    assert found(1.0, "mse_loss", numbers={"output/std": 0.5, "target/std": 1e-3}) is None
    assert found(1e6, "mse_loss", numbers={"output/std": 40.0, "target/std": 1000.0}) is None


def test_a_network_of_which_most_is_frozen_was_trained_by_others() -> None:
    """P20: its head may be sure of other classes."""
    frozen = meta(frozen=range(LAYERS - 1))
    assert found(9.0, about={"parameters": frozen["parameters"]}) is None


def test_a_run_that_goes_on_from_a_checkpoint_is_not_judged() -> None:
    history = loss_story(loss=lambda step: 9.0)
    history.meta["losses"]["cross_entropy#0"]["first"]["step"] = 500
    assert isinstance(InitialLoss().check(history), NotObserved)
