"""An output that is not what the loss function takes (C1, PEERS 3)."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_diag.rules.output_activation_mismatch import OutputActivationMismatch
from rules.loss_stories import loss_story

ROWS = "output/probability_fraction"
LOGS = "output/log_probability_fraction"


def found(function: str, numbers: dict[str, float], **call: Any) -> tuple[str, str] | None:
    """Return severity and message."""
    findings = OutputActivationMismatch()(
        loss_story(lambda step: numbers, function=function, call=call)
    )
    return (findings[0].severity, findings[0].message) if findings else None


@pytest.mark.parametrize(
    ("function", "numbers", "call", "severity", "words"),
    [
        ("cross_entropy", {ROWS: 1.0}, {"activation": "softmax"}, "bad", "softmax"),
        ("cross_entropy", {ROWS: 1.0}, {}, "bad", "100% of the rows"),
        ("cross_entropy", {ROWS: 0.0}, {"classes": 1}, "bad", "1 class"),
        ("cross_entropy", {}, {"activation": "relu"}, "suspect", "output of a relu"),
        ("cross_entropy", {}, {"activation": "sigmoid"}, "suspect", "output of a sigmoid"),
        ("nll_loss", {LOGS: 0.0, ROWS: 1.0}, {}, "bad", "probabilities where"),
        ("nll_loss", {LOGS: 0.0, ROWS: 0.0}, {}, "bad", "scores where"),
        ("nll_loss", {LOGS: 0.0}, {"activation": "log_softmax"}, "bad", "another dimension"),
        ("kl_div", {LOGS: 0.0, ROWS: 1.0}, {}, "bad", "probabilities where"),
        (
            "binary_cross_entropy_with_logits",
            {ROWS: 1.0},
            {"activation": "sigmoid"},
            "bad",
            "no probability is below 50 %",
        ),
        (
            "binary_cross_entropy_with_logits", {}, {"activation": "tanh"}, "suspect", "27 %",
        ),
        (
            "mse_loss",
            {"target/unreachable_fraction": 0.3},
            {"activation": "tanh"},
            "bad",
            "between -1 and 1",
        ),
        (
            "mse_loss",
            {"target/unreachable_fraction": 0.1},
            {"activation": "relu"},
            "suspect",
            "below 0",
        ),
        (
            "l1_loss",
            {"target/unreachable_fraction": 0.5},
            {"activation": "sigmoid"},
            "bad",
            "between 0 and 1",
        ),
    ],
)  # fmt: skip
def test_it_fires(
    function: str, numbers: dict[str, float], call: dict[str, Any], severity: str, words: str
) -> None:
    verdict = found(function, numbers, **call)
    assert verdict is not None
    assert verdict[0] == severity
    assert words in verdict[1]


@pytest.mark.parametrize(
    ("function", "numbers", "call"),
    [
        # a log-softmax before the softmax of a cross-entropy changes nothing
        ("cross_entropy", {LOGS: 1.0}, {"activation": "log_softmax"}),
        ("cross_entropy", {LOGS: 1.0}, {"activation": "log"}),
        ("cross_entropy", {ROWS: 0.98}, {}),
        ("nll_loss", {LOGS: 1.0}, {"activation": "log_softmax"}),
        ("nll_loss", {LOGS: 0.6}, {}),
        ("kl_div", {LOGS: 1.0}, {"activation": "log_softmax"}),
        ("binary_cross_entropy", {ROWS: 1.0}, {"activation": "sigmoid"}),
        ("binary_cross_entropy_with_logits", {ROWS: 1.0}, {}),
        ("mse_loss", {"target/unreachable_fraction": 0.0}, {"activation": "relu"}),
        ("mse_loss", {"target/unreachable_fraction": 0.04}, {"activation": "sigmoid"}),
        ("mse_loss", {}, {"activation": "sigmoid"}),
    ],
)
def test_it_is_silent_on_what_looks_alike(
    function: str, numbers: dict[str, float], call: dict[str, Any]
) -> None:
    """P20."""
    assert found(function, numbers, **call) is None


def test_one_odd_batch_says_nothing() -> None:
    history = loss_story(lambda step: {ROWS: 1.0 if step % 2 else 0.0})
    assert OutputActivationMismatch()(history) == []


def test_it_says_so_at_the_third_look() -> None:
    early = loss_story(lambda step: {ROWS: 1.0} if step < 3 else {}, loss=lambda s: 2.0)
    assert OutputActivationMismatch()(early) == []
    (finding,) = OutputActivationMismatch()(loss_story(lambda step: {ROWS: 1.0}))
    assert finding.places == ("cross_entropy#0",)
    assert finding.steps[0] == 0
