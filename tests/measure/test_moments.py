"""Sums, squares and extremes, each against the slow and obvious computation in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_diag.measure.moments import (
    Moments,
    MomentsCache,
    extremes,
    flat,
    largest,
    moments,
    nonfinite_count,
    nonzero_count,
    plain,
    square_sum,
)

SIZES = (0, 1, 2, 1023, 1024, 1025, 4096, 4097, 1_000_003)


def reference_squares(x: Tensor) -> float:
    dense = x.to_dense().detach()
    parts = torch.view_as_real(dense.resolve_conj()) if dense.is_complex() else dense
    return math.fsum(value * value for value in parts.double().flatten().tolist())


def variance(m: Moments) -> float:
    return float(m.squares / m.count - (m.total / m.count) ** 2)


@pytest.mark.parametrize("size", SIZES)
def test_square_sum_is_that_of_float64_at_every_size(size: int) -> None:
    x = torch.randn(size)
    assert float(square_sum(x)) == pytest.approx(float(x.double().square().sum()), rel=1e-6)
    assert isinstance(square_sum(x), float)


@pytest.mark.parametrize("size", [100, 5000])
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.complex128]
)
def test_square_sum_of_every_dtype(dtype: torch.dtype, size: int) -> None:
    x = torch.randn(size, dtype=dtype)
    assert float(square_sum(plain(x))) == pytest.approx(reference_squares(x), rel=1e-5)


@pytest.mark.parametrize("magnitude", [1e-42, 1e-30, 1e-22, 1e-17, 1e17, 1e19, 1e25, 1e37])
@pytest.mark.parametrize("size", [3, 5000])
def test_square_sum_neither_overflows_nor_vanishes(magnitude: float, size: int) -> None:
    """Exploding and vanishing gradients are what people look for (W1, W2)."""
    x = torch.randn(size) * magnitude
    expected = float(x.double().square().sum())
    assert expected > 0
    assert float(square_sum(x)) == pytest.approx(expected, rel=1e-5, abs=0)


def test_square_sum_of_large_and_small_values_together() -> None:
    x = torch.cat([torch.full((5000,), 1e-25), torch.full((3,), 1e22)])
    assert float(square_sum(x)) == pytest.approx(3e44, rel=1e-5)


def strided(kind: str) -> Tensor:
    image = torch.randn(4, 6, 20, 20)
    return {
        "transposed": torch.randn(90, 110).t(),
        "every second": torch.randn(20_000)[::2],
        "channels_last": image.to(memory_format=torch.channels_last),
        "channels_last_3d": torch.randn(2, 3, 8, 9, 10).to(memory_format=torch.channels_last_3d),
        "expanded": torch.randn(1, 100).expand(70, 100),
        "cropped": image[:, :, 1:-1, 1:-1],
        "negated": torch.randn(5000, dtype=torch.complex64).conj().imag,
        "scalar": torch.tensor(3.0),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "transposed",
        "every second",
        "channels_last",
        "channels_last_3d",
        "expanded",
        "cropped",
        "negated",
        "scalar",
    ],
)
def test_statistics_do_not_depend_on_the_memory_layout(kind: str) -> None:
    x = strided(kind)
    assert float(square_sum(x)) == pytest.approx(reference_squares(x), rel=1e-5)
    assert float(moments(x).total) == pytest.approx(float(x.double().sum()), rel=1e-5, abs=1e-3)
    assert sorted(flat(x).tolist()) == sorted(x.flatten().tolist())
    assert float(nonzero_count(x)) == x.numel()
    assert float(largest(x)) == float(x.abs().max())


def test_channels_last_images_are_not_copied() -> None:
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert flat(image).data_ptr() == image.data_ptr()


@pytest.mark.parametrize("mean", [0.0, 1e3, -1e4, 1e5])
@pytest.mark.parametrize("size", [10, 4097, 1_000_003])
def test_variance_is_right_where_the_mean_is_much_larger(mean: float, size: int) -> None:
    x = torch.randn(size) + mean
    m = moments(x)
    assert m.count == size
    assert float(m.total) == pytest.approx(float(x.double().sum()), rel=1e-6, abs=1e-2)
    # pooled sums in float64 keep (mean / deviation)^2 times 1e-16 of the variance
    tolerance = max(1e-5, 16 * 1e-16 * mean * mean)
    assert variance(m) == pytest.approx(float(x.double().var(correction=0)), rel=tolerance)


@pytest.mark.parametrize("size", [10, 4097, 1_000_003])
def test_variance_is_right_where_the_mean_is_a_million_deviations(size: int) -> None:
    x = torch.randn(size) + 1e6
    assert variance(moments(x)) == pytest.approx(float(x.double().var(correction=0)), rel=2e-3)


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60),
    cut=st.integers(0, 60),
)
def test_moments_of_parts_add_up_to_those_of_the_whole(values: list[float], cut: int) -> None:
    x = torch.tensor(values)
    whole, parts = moments(x), (moments(x[:cut]), moments(x[cut:]))
    scale = float(x.double().square().sum()) + 1e-300
    assert sum(part.count for part in parts) == whole.count
    assert abs(float(parts[0].squares + parts[1].squares - whole.squares)) <= 1e-6 * scale
    total = float(parts[0].total + parts[1].total - whole.total)
    assert abs(total) <= 1e-6 * float(x.double().abs().sum())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_value_makes_the_moments_bad(bad: float) -> None:
    for size in (3, 5000):
        x = torch.randn(size)
        x[1] = bad
        m = moments(x)
        assert not math.isfinite(float(m.total))
        assert not math.isfinite(float(m.squares))
        assert not math.isfinite(float(square_sum(x)))


def test_constant_and_empty_tensors() -> None:
    assert variance(moments(torch.full((10_000,), 0.1))) == pytest.approx(0.0, abs=1e-15)
    empty = moments(torch.empty(0, 3))
    assert (empty.count, float(empty.total), float(empty.squares)) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("values", "high", "minus_low", "peak"),
    [
        ([-3.0, 2.0], 2.0, 3.0, 3.0),
        ([2.0, 3.0], 3.0, -2.0, 3.0),
        ([-5.0, -4.0], -4.0, 5.0, 5.0),
        ([0.0], 0.0, 0.0, 0.0),
        ([math.inf, 1.0], math.inf, -1.0, math.inf),
        ([-math.inf, 1.0], 1.0, math.inf, math.inf),
        ([math.nan, 1.0], math.inf, math.inf, math.inf),
        ([], 0.0, 0.0, 0.0),
    ],
)
def test_extremes(values: list[float], high: float, minus_low: float, peak: float) -> None:
    x = torch.tensor(values)
    assert [float(value) for value in extremes(x)] == [high, minus_low]
    assert float(largest(x)) == peak


def test_minus_infinity_alone_has_an_infinite_peak() -> None:
    assert float(largest(torch.full((3,), -math.inf))) == math.inf


@pytest.mark.parametrize("size", [5, 5000])
def test_zeros_and_bad_values_are_counted_exactly(size: int) -> None:
    x = torch.randn(size)
    x[0], x[1], x[2], x[3] = 0.0, -0.0, math.nan, -math.inf
    assert float(nonzero_count(x)) == size - 2
    assert float(nonfinite_count(x, square_sum(x))) == 2
    clean = torch.randn(size)
    assert float(nonfinite_count(clean, square_sum(clean))) == 0


def test_a_finite_tensor_whose_squares_overflow_has_no_bad_values() -> None:
    x = torch.full((3,), 1e300, dtype=torch.float64)
    assert float(square_sum(x)) == math.inf
    assert float(nonfinite_count(x, square_sum(x))) == 0


def test_plain_is_detached_real_dense_and_wide() -> None:
    leaf = torch.randn(3, requires_grad=True)
    assert not plain(leaf * 2).requires_grad
    assert plain(torch.zeros(3, dtype=torch.bfloat16)).dtype is torch.float32
    assert plain(torch.zeros(3, dtype=torch.float64)).dtype is torch.float64
    assert plain(torch.zeros(3, dtype=torch.complex64).conj()).shape == (3, 2)
    twice = torch.sparse_coo_tensor(
        torch.tensor([[1, 1]]), torch.tensor([2.0, 3.0]), (4,), check_invariants=True
    )
    assert plain(twice).tolist() == [5.0]
    already = torch.ones(3)
    assert plain(already).data_ptr() == already.data_ptr()


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_compressed_sparse_tensors_are_their_values() -> None:
    assert plain(torch.eye(3).to_sparse_csr()).tolist() == [1.0, 1.0, 1.0]


def test_the_cache_knows_a_tensor_until_it_changes() -> None:
    cache, x = MomentsCache(), torch.tensor([1.0, 2.0])
    first = cache.of(x)
    assert cache.of(x) is first
    x.relu_()
    again = cache.of(x)
    assert again is not first
    x.add_(1)
    assert float(cache.of(x).total) == 5.0


def test_the_cache_keeps_no_tensor_alive_and_mixes_none_up() -> None:
    """A freed tensor's `id` may come back for another one."""
    cache = MomentsCache()
    for value in range(50):
        assert float(cache.of(torch.full((3,), float(value))).total) == 3.0 * value
    assert all(reference() is None for reference, _, _ in cache._known.values())
    cache.clear()
    assert not cache._known
