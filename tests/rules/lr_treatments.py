"""Sick trainings that callbacks for learning rate, clipping and stopping cure, or their advice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from torch import nn

from lightning_diag import (
    AutoClip,
    EarlyStoppingWindow,
    GradientClipAdvisor,
    GradientNoiseScale,
    LinearScalingLR,
    WarmupLR,
)
from lightning_diag.lr.range_test import lr_range_test
from rules.more_treatments import BY_HEART, SPIKED
from rules.remedies import Module, Remedy, Training, adam, chain, findings, one_hot, sgd


def suggested(
    training: Training, optimizer: Callable[..., Callable[[Any], Any]] = sgd
) -> Callable[[Any], Any]:
    """Return what makes an optimizer at the learning rate that a range test suggests."""

    @lru_cache(maxsize=1)
    def lr() -> float:
        sick = Module(training)
        test = lr_range_test(sick, training.loader(held=False), accelerator="cpu")
        assert test.lr is not None, test.reason
        return test.lr

    def make(parameters: Any) -> Any:
        return optimizer(lr())(parameters)

    return make


def with_threshold(training: Training) -> Training:
    """Return a training with the clipping threshold that is suggested for it."""
    advisor = GradientClipAdvisor()
    findings(replace(training, callbacks=lambda: [advisor]))
    advice = advisor.advice[""]
    assert advice.verdict == "spikes"
    assert advice.suggested is not None
    return replace(training, options={"gradient_clip_val": advice.suggested})


def with_batch_size(training: Training) -> Training:
    """Return a training with the batch size that is suggested for it."""
    noise = GradientNoiseScale(1, max_overhead=1e9, startup_seconds=1e9)
    findings(replace(training, callbacks=lambda: [noise]))
    advice = noise.advice[""]
    assert advice.verdict == "small"
    assert advice.suggested is not None
    return replace(training, batch_size=advice.suggested)


def stopping() -> list[Any]:
    """Return what stops as soon as a short window of the validation loss does not improve."""
    return [
        EarlyStoppingWindow("val_loss", window=3, patience=1, trend_window=None, restore_best=True)
    ]


FAST = Training(optimizer=adam(1.0))
STEEP_START = Training(net=chain(layers=6, norm=nn.LayerNorm), optimizer=adam(0.1), steps=200)
FOR_LARGE = Training(batch_size=8, optimizer=sgd(0.5), steps=300)
SLOW = Training(optimizer=sgd(1e-6), steps=300)
FOR_ONE = Training(batch_size=400, optimizer=sgd(1e-4), steps=200)
THROWN = Training(data=one_hot(100), loss=nn.functional.mse_loss, optimizer=sgd(0.03), steps=100)
PAIRS = Training(batch_size=2, optimizer=sgd(0.1, 0.0), steps=700)

QUICK: Sequence[Remedy] = (
    Remedy(
        "learning-rate-too-high",
        "lightning_diag.lr_range_test",
        FAST,
        replace(FAST, optimizer=suggested(FAST, adam)),
    ),
    Remedy(
        "learning-rate-too-high",
        "lightning_diag.WarmupLR",
        STEEP_START,
        replace(STEEP_START, callbacks=lambda: [WarmupLR(100)]),
    ),
    Remedy(
        "learning-rate-too-high",
        "lightning_diag.LinearScalingLR",
        FOR_LARGE,
        replace(FOR_LARGE, callbacks=lambda: [LinearScalingLR(256)]),
    ),
    Remedy(
        "learning-rate-too-low",
        "lightning_diag.lr_range_test",
        SLOW,
        replace(SLOW, optimizer=suggested(SLOW)),
    ),
    Remedy(
        "learning-rate-too-low",
        "lightning_diag.LinearScalingLR",
        FOR_ONE,
        replace(FOR_ONE, callbacks=lambda: [LinearScalingLR(1)]),
    ),
    Remedy(
        "exploding-gradient",
        "lightning_diag.AutoClip",
        THROWN,
        replace(THROWN, callbacks=lambda: [AutoClip()]),
    ),
    Remedy("loss-spike", "lightning_diag.GradientClipAdvisor", SPIKED, with_threshold),
)
SLOW_ONES: Sequence[Remedy] = (
    Remedy("noisy-gradient", "lightning_diag.GradientNoiseScale", PAIRS, with_batch_size),
    Remedy(
        "overfitting",
        "lightning_diag.EarlyStoppingWindow(restore_best=True)",
        BY_HEART,
        replace(BY_HEART, callbacks=stopping),
    ),
)
