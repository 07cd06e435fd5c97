"""Batch statistics against running ones, compared with a slow reference in float64 (W14)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lightning_diag.measure.base import Call
from lightning_diag.measure.batch_norm import BatchNormMeasure, Update

PLACE = "net/batch_norm#0"


class Running(NamedTuple):
    """Running statistics before a batch."""

    mean: Tensor
    variance: Tensor
    eps: float


def _call(x: Tensor) -> Call:
    return Call(PLACE, "batch_norm", "norm", 1, x)


def _update(x: Tensor, running: Running, factor: float | Tensor) -> Update:
    """Let torch's own batch norm take the batch in."""
    mean, variance = running.mean.clone(), running.variance.clone()
    functional.batch_norm(x, mean, variance, training=True, momentum=float(factor))
    return Update((running.mean, mean), (running.variance, variance), factor, running.eps)


def _numbers(
    batches: Sequence[Tensor], running: Running, factor: float | Tensor = 0.1
) -> dict[str, float]:
    sums = torch.zeros(1, 4)
    for x in batches:
        update = _update(x, running, factor)
        measure = BatchNormMeasure(lambda place: None, {PLACE: update}.get)
        columns = measure.after(_call(x))
        assert columns is not None
        sums = sums + columns.sums
    found = measure.summarise([PLACE], sums, torch.zeros(1, 0))
    return {output: values[PLACE] for output, values in found.items()}


def _reference(batches: Sequence[Tensor], running: Running) -> tuple[float, float]:
    """Channel by channel, value by value."""
    gaps, logs = [], []
    for x in batches:
        for channel in range(x.shape[1]):
            values = x[:, channel].double().flatten().tolist()
            mean = math.fsum(values) / len(values)
            variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
            scale = float(running.variance[channel]) + running.eps
            gaps.append((mean - float(running.mean[channel])) ** 2 / scale)
            logs.append(math.log((variance + running.eps) / scale))
    return math.sqrt(math.fsum(gaps) / len(gaps)), math.exp(math.fsum(logs) / len(logs))


@pytest.mark.parametrize("shape", [(16, 5), (4, 3, 7), (2, 6, 4, 4), (1, 2, 3, 3, 3)])
@pytest.mark.parametrize("factor", [0.1, 1.0, 1e-3, torch.tensor(0.02)])
def test_it_agrees_with_the_reference(shape: tuple[int, ...], factor: float | Tensor) -> None:
    generator = torch.Generator().manual_seed(3)
    batches = [torch.randn(shape, generator=generator) * 3 + i for i in range(2)]
    channels = shape[1]
    running = Running(
        torch.randn(channels, generator=generator),
        torch.rand(channels, generator=generator) + 0.5,
        1e-5,
    )
    gap, ratio = _reference(batches, running)
    numbers = _numbers(batches, running, factor)
    digits = 1e-6 / min(float(factor), 0.1)
    assert numbers["mean_gap"] == pytest.approx(gap, rel=digits)
    assert numbers["variance_ratio"] == pytest.approx(ratio, rel=digits)
    assert numbers["batch_size"] == shape[0]


def test_a_momentum_of_1e_5_leaves_two_digits() -> None:
    """What the layer's own rounding of its statistics allows."""
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)) * 2 + 1
    running = Running(torch.zeros(8), torch.ones(8), 1e-5)
    gap, ratio = _reference([x], running)
    numbers = _numbers([x], running, 1e-5)
    assert numbers["mean_gap"] == pytest.approx(gap, rel=2e-2)
    assert numbers["variance_ratio"] == pytest.approx(ratio, rel=2e-2)


def test_statistics_that_have_arrived_show_no_gap() -> None:
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    numbers = _numbers([x], Running(x.mean(0), x.var(0), 1e-5))
    assert numbers["mean_gap"] == pytest.approx(0.0, abs=1e-5)
    assert numbers["variance_ratio"] == pytest.approx(1.0, rel=1e-5)


def test_constant_channels_have_no_gap_either() -> None:
    """Behind dead units: both variances are 0."""
    numbers = _numbers([torch.zeros(8, 3)], Running(torch.zeros(3), torch.zeros(3), 1e-5))
    assert numbers["mean_gap"] == 0.0
    assert numbers["variance_ratio"] == pytest.approx(1.0)


def test_the_site_is_remembered_before_and_recalled_after() -> None:
    asked: list[str] = []

    def recall(place: str) -> None:
        asked.append(f"after {place}")

    measure = BatchNormMeasure(lambda place: asked.append(f"before {place}"), recall)
    call = _call(torch.randn(4, 2))
    assert measure.before(call) is None
    assert measure.after(call) is None
    assert asked == [f"before {PLACE}", f"after {PLACE}"]
