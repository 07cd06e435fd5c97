"""Filters as pictures, and their smoothness against a slow reference (W9)."""

from __future__ import annotations

import base64
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_diag.measure.filters import (
    FILTERS,
    PIXELS,
    FilterMeasure,
    kernels,
    mean_smoothness,
    pictures,
    shown,
    smoothness,
    templates,
)
from lightning_diag.measure.pictures import Layout, arranged, as_text, layout_of, shrunk


def moran(x: Tensor) -> float:
    """Return Moran's I of one picture as the paper defines it: pixel by pixel, pair by pair."""
    channels, height, width = x.shape
    means = [float(x[c].double().mean()) for c in range(channels)]
    top = bottom = weights = 0.0
    for i in range(height):
        for j in range(width):
            for k, n in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                if 0 <= k < height and 0 <= n < width:
                    weights += 1
                    for c in range(channels):
                        one, other = float(x[c, i, j]), float(x[c, k, n])
                        top += (one - means[c]) * (other - means[c])
            for c in range(channels):
                bottom += (float(x[c, i, j]) - means[c]) ** 2
    return height * width / weights * top / bottom


@pytest.mark.parametrize("shape", [(5, 1, 3, 3), (4, 3, 7, 7), (3, 1, 2, 6), (2, 3, 1, 9)])
def test_smoothness_equals_the_slow_reference(shape: tuple[int, ...]) -> None:
    filters = torch.randn(shape, generator=torch.Generator().manual_seed(3)).cumsum(-1) + 5.0
    expected = [moran(one) for one in filters]
    assert smoothness(filters).tolist() == pytest.approx(expected, rel=1e-9)


def test_noise_has_the_mean_that_the_paper_gives() -> None:
    """Its expectation is -1 / (N - 1), whatever the spread of the noise."""
    generator = torch.Generator().manual_seed(0)
    for side in (3, 8):
        found = smoothness(1e-3 * torch.randn(20_000, 1, side, side, generator=generator))
        assert float(found.mean()) == pytest.approx(-1 / (side * side - 1), abs=4e-3)


def test_a_slope_and_a_wave_are_smooth_and_a_chess_board_is_the_opposite() -> None:
    x = torch.arange(28.0)
    slope = (x[:, None] + x)[None, None]
    wave = torch.sin(x / 4)[None, None].expand(1, 1, 28, 28)
    board = ((x[:, None] + x) % 2)[None, None]
    assert float(smoothness(slope)) > 0.9
    assert float(smoothness(wave)) > 0.9
    assert float(smoothness(board)) == pytest.approx(-1.0)


def test_scale_and_offset_do_not_matter() -> None:
    filters = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1)).double()
    moved = smoothness(1e-3 * filters + 3.0)
    assert moved.tolist() == pytest.approx(smoothness(filters).tolist(), rel=1e-6)


def test_constant_filters_are_left_out_of_the_mean() -> None:
    """A filter of zeros, or of one number, is neither smooth nor noisy."""
    varying = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    both = torch.cat([torch.full((3, 1, 4, 4), 0.1), varying, torch.zeros(1, 1, 4, 4)])
    assert mean_smoothness(both) == pytest.approx(moran(varying[0]))
    assert mean_smoothness(both[:3]) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_filters_that_are_not_finite_have_no_smoothness_and_still_a_picture(value: float) -> None:
    filters = torch.ones(2, 1, 3, 3)
    filters[0, 0, 1, 1] = value
    content = shown(filters, mean_smoothness(filters))
    assert content["smoothness"] is None
    assert content["limit"] == 1.0
    assert set(base64.b64decode(content["pixels"])) == {255, 128 if math.isnan(value) else 255}


def test_replicas_add_up_to_what_one_has() -> None:
    """Each rank joins the same weights; the picture is that of one."""
    filters = kernels(torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(4)))
    measure = FilterMeasure()
    one = measure.observe(filters)
    two = one.joined(measure.observe(filters))
    assert torch.equal(pictures(two.sums[0], two.maxima[0]), filters.to(one.sums.dtype))
    numbers = [measure.summarise(["w"], c.sums, c.maxima) for c in (one, two)]
    assert numbers[0] == numbers[1] == {"smoothness": {"w": mean_smoothness(filters)}}


def test_pixels_are_the_weights_on_one_scale() -> None:
    """They can be read back to within half a grey level."""
    filters = torch.randn(5, 3, 4, 6, generator=torch.Generator().manual_seed(5))
    content = shown(filters, mean_smoothness(filters))
    assert content["shape"] == [5, 4, 6, 3]
    raw = np.frombuffer(base64.b64decode(content["pixels"]), np.uint8).reshape(content["shape"])
    weights = (raw.astype(float) - 127.5) / 127.5 * content["limit"]
    error = np.abs(weights - filters.movedim(1, -1).numpy()).max()
    assert error <= 0.5001 * content["limit"] / 127.5
    assert shown(torch.zeros(1, 1, 2, 2), None)["pixels"] == base64.b64encode(b"\x80" * 4).decode()


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        ((16, 1, 5, 5), (16, 1, 5, 5)),
        ((96, 3, 11, 11), (64, 3, 11, 11)),
        ((8, 4, 3, 3), (8, 1, 3, 3)),  # of other numbers of channels the mean
        ((768, 3, 64, 48), (28, 3, 32, 24)),  # 28 of these are 64,512 numbers
    ],
)
def test_kernels_are_few_and_small(weight: tuple[int, ...], expected: tuple[int, ...]) -> None:
    found = kernels(torch.randn(weight))
    assert tuple(found.shape) == expected
    assert found.shape[0] <= FILTERS
    assert found.numel() <= PIXELS


def test_a_linear_layers_rows_are_laid_out_as_its_inputs_are() -> None:
    picture = torch.randn(1, 3, 8, 8)
    for layout, flat in (
        (Layout(8, 8, 3, is_last=False), picture.flatten(1)),
        (Layout(8, 8, 3, is_last=True), picture.permute(0, 2, 3, 1).flatten(1)),
    ):
        assert torch.equal(templates(flat, layout), picture)
        assert torch.equal(arranged(flat, layout), picture)
    assert templates(torch.randn(100, 3 * 224 * 224), Layout(224, 224, 3, is_last=False)).shape == (
        (21, 3, 32, 32)
    )


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 28, 28), (28, 28, 1, False)),
        ((3, 32, 48), (32, 48, 3, False)),
        ((32, 48, 3), (32, 48, 3, True)),
        ((28, 28), (28, 28, 1, False)),
        ((64,), (8, 8, 1, False)),
        ((3072,), (32, 32, 3, False)),
    ],
)
def test_pictures_are_told_by_their_shape(shape: tuple[int, ...], expected: Layout) -> None:
    assert layout_of(shape) == expected


@pytest.mark.parametrize(
    "shape", [(), (10,), (49,), (200,), (20, 7), (3, 3), (4, 32, 32), (3, 3, 3), (8, 3, 8, 8)]
)
def test_other_shapes_are_no_pictures(shape: tuple[int, ...]) -> None:
    """A table, a short sequence, a feature map, a video."""
    assert layout_of(shape) is None


def test_shrinking_averages_neighbours() -> None:
    x = torch.arange(64.0 * 64).reshape(1, 1, 64, 64)
    small = shrunk(x)
    assert small.shape == (1, 1, 32, 32)
    assert float(small[0, 0, 0, 0]) == pytest.approx((0 + 1 + 64 + 65) / 4)
    assert float(small.mean()) == pytest.approx(float(x.mean()))
    assert shrunk(x[..., :32, :32]) is not None
    assert torch.equal(shrunk(x[..., :32, :32]), x[..., :32, :32])


def test_bytes_are_by_row_and_column_with_channels_last_and_never_wrap() -> None:
    pixels = torch.tensor([[[0.0, 300.0]], [[-4.0, 2.4]], [[math.nan, 2.6]]])
    assert base64.b64decode(as_text(pixels)) == bytes([0, 0, 128, 255, 2, 3])
