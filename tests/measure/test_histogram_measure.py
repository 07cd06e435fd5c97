"""Histograms against a count one by one (W8)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_diag.measure.base import Call
from lightning_diag.measure.histogram import HistogramMeasure, histogram

TINY = 1.1754943508222875e-38  # the smallest float32 that is not subnormal


def slow(values: list[float], bins: int, low: float, high: float) -> list[float]:
    counts = [0.0] * bins
    for value in values:
        if math.isnan(value):
            continue
        share = (value - low) / (high - low)
        counts[0 if share < 0 else bins - 1 if share >= 1 else int(share * bins)] += 1
    return counts


def counted(y: torch.Tensor, bins: int, low: float, high: float) -> list[float]:
    call = Call("place", "relu", "relu", 1, y, y)
    columns = HistogramMeasure(bins, lambda place: (low, high)).after(call)
    assert columns is not None
    assert columns.sums.shape == (1, bins)
    counts: list[float] = columns.sums[0].tolist()
    return counts


# eighths, so that no value lies a rounding error away from the edge of a bin
@settings(max_examples=80, deadline=None)
@given(
    values=st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=1, max_size=50),
    bins=st.sampled_from([2, 4, 8]),
)
def test_every_value_is_counted_in_its_bin(values: list[float], bins: int) -> None:
    assert histogram(torch.tensor(values), bins, -2.0, 2.0).tolist() == slow(values, bins, -2, 2)


def test_outermost_bins_take_what_lies_beyond_and_nan_is_not_counted() -> None:
    values = torch.tensor([-math.inf, -9.0, 0.5, 9.0, math.inf, math.nan, 3e38, -3e38])
    assert histogram(values, 2, 0.0, 1.0).tolist() == [3.0, 4.0]


def test_the_ends_of_the_range_fall_into_the_outermost_bins() -> None:
    assert histogram(torch.tensor([0.0, 1.0]), 4, 0.0, 1.0).tolist() == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1e-44), (0.0, TINY), (-3e38, 3e38), (1.0, 1.0 + 2**-23)]
)
def test_every_range_of_float32_can_be_divided(low: float, high: float) -> None:
    """Signals that die out on their way through a deep net are what people look for (W8)."""
    values = torch.tensor([low, high, math.nan, math.inf, -math.inf])
    counts = histogram(values, 32, low, high)
    assert float(counts.sum()) == 4.0
    assert [float(counts[0]), float(counts[-1])] == [2.0, 2.0]


def test_nan_alone_gives_an_empty_histogram() -> None:
    assert histogram(torch.full((3,), math.nan), 2, 0.0, 1.0).tolist() == [0.0, 0.0]


def test_a_place_without_a_range_is_left_out() -> None:
    measure = HistogramMeasure(4, lambda place: None)
    assert measure.after(Call("p", "relu", "relu", 1, torch.ones(2), torch.ones(2))) is None
    empty = HistogramMeasure(4, lambda place: (0.0, 1.0))
    assert empty.after(Call("p", "relu", "relu", 1, torch.ones(0), torch.ones(0))) is None


def test_tensors_of_usual_size_are_counted_whole() -> None:
    y = torch.rand(64, 1000)
    assert sum(counted(y, 8, 0.0, 1.0)) == 64_000


@pytest.mark.parametrize("shape", [(64, 16, 64, 64), (8, 32, 128, 130), (300, 1, 25, 60), (3**13,)])
def test_a_sample_of_a_large_tensor_has_its_shares(shape: tuple[int, ...]) -> None:
    """Also where values depend on the position, as at the padded border of an image."""
    y = torch.zeros(shape)
    y[..., 0] = 0.9
    share = 1 / shape[-1]
    low, high = counted(y, 2, 0.0, 1.0)
    assert 2**15 < low + high <= 2**17
    assert high / (low + high) == pytest.approx(share, abs=0.002)


def test_a_histogram_of_low_precision_outputs() -> None:
    y = torch.tensor([[0.25, 0.75, 0.75]], dtype=torch.bfloat16)
    assert counted(y, 2, 0.0, 1.0) == [1.0, 2.0]
