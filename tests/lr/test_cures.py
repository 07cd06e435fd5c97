"""Runs whose learning rate is wrong, found by `Doctor`, and treated as the finding says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
import torch
from rules.lr_treatments import suggested
from rules.remedies import QUIET, Module, Training, adam, chain, sgd
from torch import nn, optim

from lightning_diag import Doctor, LinearScalingLR, WarmupLR

HIGH, LOW = "learning-rate-too-high", "learning-rate-too-low"


class Course(NamedTuple):
    """What became of a training."""

    codes: set[str]
    """Of findings that have not passed."""
    first: float
    """The first loss."""
    last: float
    """The mean of the last losses."""


def course(training: Training) -> Course:
    """Train, watched by `Doctor`."""
    torch.manual_seed(training.seed)
    doctor = Doctor(every_n_steps=5, max_overhead=1e9, startup_seconds=1e9)
    trainer = pl.Trainer(
        callbacks=[doctor, *training.callbacks()], max_steps=training.steps, max_epochs=-1, **QUIET
    )
    trainer.fit(Module(training), training.loader(held=False))
    losses = doctor.history.series("loss/train").values
    codes = {finding.code for finding in doctor.findings if finding.until is None}
    return Course(codes, losses[0], sum(losses[-8:]) / 8)


def adamw(lr: float) -> Callable[[Any], Any]:
    """Return what makes an AdamW."""
    return lambda parameters: optim.AdamW(parameters, lr)


def rmsprop(lr: float) -> Callable[[Any], Any]:
    """Return what makes an RMSprop."""
    return lambda parameters: optim.RMSprop(parameters, lr)


KINDS = {
    "ReLU, SGD with momentum": (chain(), sgd, 1.0, 1e-6),
    "tanh, Adam": (chain(nn.Tanh, 2), adam, 1.0, 1e-7),
    "layer norm, AdamW": (chain(norm=nn.LayerNorm), adamw, 0.3, 1e-7),
    "GELU, RMSprop": (chain(nn.GELU, 2, 64), rmsprop, 10.0, 1e-8),
}
"""Name to a network, its optimizer, and a learning rate that is too high and one too low."""
ALL_KINDS = pytest.mark.parametrize("kind", KINDS)


def treated(sick: Training, optimizer: Callable[[float], Callable[[Any], Any]]) -> Training:
    """Take the learning rate that a range test of the sick training suggests, and warm it up."""
    found = suggested(sick, optimizer)
    return replace(sick, optimizer=found, callbacks=lambda: [WarmupLR(15)])


@ALL_KINDS
@pytest.mark.parametrize(("code", "seed"), [(HIGH, 3), (LOW, 4)])
def test_a_wrong_learning_rate_is_cured_by_a_range_test_and_a_warm_up(
    kind: str, code: str, seed: int
) -> None:
    """P14, P21: the treatment knows nothing of what is wrong."""
    net, optimizer, high, low = KINDS[kind]
    sick = Training(net, optimizer(high if code == HIGH else low), steps=150, seed=seed)
    found, cured = course(sick), course(treated(sick, optimizer))
    assert code in found.codes
    assert not cured.codes & {HIGH, LOW}
    assert cured.last < 0.3 * cured.first


@pytest.mark.parametrize("seed", [5, pytest.param(6, marks=pytest.mark.slow)])
def test_a_rate_for_large_batches_is_cured_by_scaling(seed: int) -> None:
    """P15: batches of 8 at the learning rate that suits 256."""
    sick = Training(optimizer=sgd(0.5), batch_size=8, steps=300, seed=seed)
    found = course(sick)
    cured = course(replace(sick, callbacks=lambda: [LinearScalingLR(256)]))
    assert HIGH in found.codes
    assert HIGH not in cured.codes
    assert cured.last < 0.3 * cured.first


@pytest.mark.parametrize("seed", [5, pytest.param(6, marks=pytest.mark.slow)])
def test_a_rate_for_single_samples_is_cured_by_scaling(seed: int) -> None:
    """P15: batches of 400 at the learning rate that suits one sample."""
    sick = Training(optimizer=sgd(1e-4), batch_size=400, steps=120, seed=seed)
    found = course(sick)
    cured = course(replace(sick, callbacks=lambda: [LinearScalingLR(1)]))
    assert LOW in found.codes
    assert LOW not in cured.codes
    assert cured.last < 0.3 * cured.first


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_rate_that_is_too_high_at_first_is_cured_by_a_warm_up(seed: int) -> None:
    """P14: the rate itself stays as high as it was."""
    sick = Training(chain(layers=6, norm=nn.LayerNorm), adam(0.1), steps=200, seed=seed)
    found, cured = course(sick), course(replace(sick, callbacks=lambda: [WarmupLR(100)]))
    assert HIGH in found.codes
    assert HIGH not in cured.codes
    assert cured.last < 0.3 * cured.first
