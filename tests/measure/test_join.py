"""Columns join: split batches pool to the whole one, and replicas cancel.

That is why micro-batches, ranks and both together give the numbers of one large batch (P5, P6).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from lightning_diag.measure.activation import (
    OutputMeasure,
    SaturationMeasure,
    VarianceGainMeasure,
)
from lightning_diag.measure.base import Call, CallMeasure, Columns, Numbers
from lightning_diag.measure.dead_relu import FiredMeasure
from lightning_diag.measure.gradient import GradientMeasure
from lightning_diag.measure.histogram import HistogramMeasure
from lightning_diag.measure.tally import Tally
from lightning_diag.measure.update import UpdateMeasure

WEIGHT = torch.linspace(-1.0, 1.3, 12).view(3, 4)
CASES: dict[str, tuple[CallMeasure, str, str, Callable[[Tensor], Tensor]]] = {
    "output": (OutputMeasure(), "relu", "relu", torch.relu),
    "saturation": (SaturationMeasure(), "sigmoid", "sigmoid", torch.sigmoid),
    "softmax": (SaturationMeasure(), "softmax", "softmax", lambda x: x.softmax(1)),
    "gain": (VarianceGainMeasure(), "linear", "layer", lambda x: functional.linear(x, WEIGHT)),
    "fired": (FiredMeasure(), "relu", "relu", torch.relu),
    "histogram": (HistogramMeasure(5, lambda place: (-2.0, 2.0)), "tanh", "tanh", torch.tanh),
}
VALUES = st.one_of(st.integers(-3, 3).map(float), st.floats(-8, 8, width=32))
BATCHES = st.lists(st.lists(VALUES, min_size=4, max_size=4), min_size=1, max_size=12)


def columns_of(case: str, x: Tensor, tally: Tally) -> None:
    measure, function, kind, forward = CASES[case]
    call = Call("place", function, kind, 1, x)
    before = measure.before(call)
    call.output = forward(x)
    for columns in (before, measure.after(call)):
        if columns is not None:
            tally.add(case, ("place",), columns)


def pooled(case: str, *batches: Tensor) -> Columns | None:
    tally = Tally(1, torch.device("cpu"))
    for batch in batches:
        columns_of(case, batch, tally)
    return next(iter(tally.join({}).wait().columns.values()), None)


def summary(case: str, columns: Columns) -> Numbers:
    return CASES[case][0].summarise(["place"], columns.sums, columns.maxima)


def flat(numbers: Numbers) -> dict[str, float]:
    return {f"{output}/{place}": v for output, p in numbers.items() for place, v in p.items()}


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=40, deadline=None)
@given(rows=BATCHES, cuts=st.lists(st.integers(0, 12), max_size=3))
def test_columns_of_split_batches_are_those_of_the_whole(
    case: str, rows: list[list[float]], cuts: list[int]
) -> None:
    x = torch.tensor(rows)
    bounds = [0, *sorted(cuts), len(x)]
    parts = [x[a:b] for a, b in pairwise(bounds)]
    whole, split = pooled(case, x), pooled(case, *parts)
    assert whole is not None
    assert split is not None
    torch.testing.assert_close(split.sums, whole.sums, rtol=1e-5, atol=1e-5)
    assert torch.equal(split.maxima, whole.maxima)


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=20, deadline=None)
@given(rows=BATCHES, copies=st.integers(2, 5))
def test_replicas_of_a_batch_change_no_share(
    case: str, rows: list[list[float]], copies: int
) -> None:
    x = torch.tensor(rows)
    one, many = pooled(case, x), pooled(case, *[x] * copies)
    assert one is not None
    assert many is not None
    torch.testing.assert_close(many.sums, one.sums * copies, rtol=1e-9, atol=0)
    numbers = {name: v for name, v in flat(summary(case, one)).items() if "count" not in name}
    assert {
        name: v for name, v in flat(summary(case, many)).items() if "count" not in name
    } == pytest.approx(numbers, rel=1e-9, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(rows=BATCHES, ranks=st.integers(2, 9))
def test_replicated_gradients_and_updates_cancel(rows: list[list[float]], ranks: int) -> None:
    """After all-reduce each rank holds the same gradient."""
    x = torch.tensor(rows)
    gradient, update = GradientMeasure(), UpdateMeasure()
    for measure, columns in (
        (gradient, gradient.observe([x, None, x[:1] * math.inf])),
        (update, update.observe([x, x, x], [x * 1.5, x, x + 1])),
    ):
        places = ["a", "b", "c"]
        alone = flat(measure.summarise(places, columns.sums, columns.maxima))
        together = flat(measure.summarise(places, columns.sums * ranks, columns.maxima))
        assert together == pytest.approx(alone, rel=1e-12, nan_ok=True)
