"""The spread over samples, against a slow reference in float64 (W7)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_diag.measure.base import Call
from lightning_diag.measure.samples import SampleSpreadMeasure


def _seen(*batches: Tensor) -> dict[str, float]:
    """Return what a measure says of the outputs of micro-batches, or of ranks."""
    measure, sums = SampleSpreadMeasure(), torch.zeros(1, 66, dtype=torch.float64)
    for x in batches:
        call = Call("a", "tanh", "tanh", 1, x, x)
        columns = measure.after(call)
        assert columns is not None
        sums = sums + columns.sums
    return measure.summarise(["a"], sums, torch.zeros(1, 0))["sample_spread"]


def _reference(x: Tensor) -> float:
    """Feature by feature."""
    found = []
    for feature in x.flatten(1).double().T.tolist():
        mean = math.fsum(feature) / len(feature)
        found.append(math.fsum((v - mean) ** 2 for v in feature) / len(feature))
    return math.sqrt(math.fsum(found) / len(found))


@pytest.mark.parametrize("shape", [(16, 5), (4, 32), (8, 2, 4, 4), (200, 3)])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_it_agrees_with_the_reference(shape: tuple[int, ...], offset: float) -> None:
    generator = torch.Generator().manual_seed(1)
    biases = offset * torch.randn(shape[1:], generator=generator)
    x = torch.randn(shape, generator=generator) * 0.3 + biases
    assert _seen(x)["a"] == pytest.approx(_reference(x), rel=1e-6)


def test_biases_are_no_spread() -> None:
    """They differ from unit to unit, and are the same for each sample."""
    biases = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    assert _seen(biases.expand(16, 8))["a"] == pytest.approx(0.0, abs=1e-7)


def test_micro_batches_and_ranks_pool() -> None:
    """P6: four samples on two ranks are eight."""
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(2))
    assert _seen(x[:4], x[4:])["a"] == pytest.approx(_seen(x)["a"], rel=1e-12)
    assert _seen(*x.split(1))["a"] == pytest.approx(_seen(x)["a"], rel=1e-12)


def test_a_part_of_a_large_output_stands_for_all() -> None:
    x = torch.randn(2000, 40, 50, generator=torch.Generator().manual_seed(3))
    assert _seen(x)["a"] == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("x", [torch.ones(1, 4), torch.full((4, 4), math.nan)])
def test_what_has_no_spread_is_absent(x: Tensor) -> None:
    assert _seen(x) == {}


def test_looks_are_taken_when_they_are_due() -> None:
    assert not SampleSpreadMeasure(lambda: False).is_due()
    assert SampleSpreadMeasure().is_due()
