"""Tensors of other sizes are made to fit as their sources say (T1)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from lightning_diag.transfer.reshape import (
    CHANNELS,
    adapt_channels,
    extra_tokens,
    interpolate_positions,
    is_position_table,
)

channels = st.integers(1, 8)


def slow_adapt(weight: Tensor, n: int, how: str) -> Tensor:
    c = weight.shape[1]
    columns = [weight[:, i].double() for i in range(c)]
    total = sum(columns, torch.zeros_like(columns[0]))
    if how == "auto":
        how = "sum" if n == 1 else "repeat"
    new = {
        "sum": [total / n] * n,
        "mean": [total / c] * n,
        "repeat": [columns[i % c] * c / n for i in range(n)],
    }[how]
    return torch.stack(new, 1).float()


@settings(deadline=None)
@given(channels, channels, st.sampled_from(CHANNELS), st.sampled_from([1, 2, 3]))
def test_channels_are_adapted_as_the_slow_reference_does(
    c: int, n: int, how: Any, spatial: int
) -> None:
    weight = torch.randn(3, c, *[2] * spatial)
    found = adapt_channels(weight, n, how)
    torch.testing.assert_close(found, slow_adapt(weight, n, how))


@settings(deadline=None)
@given(channels, channels)
def test_a_sum_answers_to_equal_channels_as_before(c: int, n: int) -> None:
    weight, image = torch.randn(4, c, 3, 3), torch.randn(2, 1, 6, 6)
    before = functional.conv2d(image.expand(-1, c, -1, -1), weight)
    new = adapt_channels(weight, n, "sum")
    after = functional.conv2d(image.expand(-1, n, -1, -1), new)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


def test_a_grey_image_is_seen_as_its_three_copies_were() -> None:
    weight = torch.randn(4, 3, 3, 3)
    grey = torch.randn(2, 1, 6, 6)
    after = functional.conv2d(grey, adapt_channels(weight, 1))
    before = functional.conv2d(grey.expand(-1, 3, -1, -1), weight)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_stays(dtype: torch.dtype) -> None:
    assert adapt_channels(torch.ones(2, 3, 1, 1, dtype=dtype), 1).dtype == dtype
    assert interpolate_positions(torch.ones(1, 4, 2, dtype=dtype), 9).dtype == dtype


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([0, 1, 2]), st.booleans())
def test_class_tokens_stay_and_constant_tables_stay_constant(
    old: int, new: int, extra: int, is_flat: bool
) -> None:
    if extra_tokens(extra + old**2, extra + new**2) != extra:
        return  # 2 places are a class token with one patch, rather than two tokens and none
    rows = torch.cat([torch.randn(extra, 5), torch.full((old**2, 5), 0.25)])
    table = rows if is_flat else rows[None]
    found = interpolate_positions(table, extra + new**2)
    assert found.shape == (*table.shape[:-2], extra + new**2, 5)
    found = found.reshape(-1, 5)
    assert torch.equal(found[:extra], rows[:extra])
    torch.testing.assert_close(found[extra:], torch.full((new**2, 5), 0.25))


@pytest.mark.parametrize("how", ["bicubic", "bilinear"])
def test_a_slope_stays_a_slope_and_rows_stay_rows(how: Any) -> None:
    """Doubling a grid puts points a quarter of a cell to both sides, but at the border."""
    grid = torch.arange(8.0)[:, None].expand(8, 8)
    table = torch.stack([grid, grid.T], -1).reshape(1, 64, 2)
    found = interpolate_positions(table, 256, how).reshape(16, 16, 2)
    inner = (torch.arange(16.0) + 0.5) / 2 - 0.5
    torch.testing.assert_close(found[4:-4, 4:-4, 0], inner[4:-4, None].expand(8, 8))
    torch.testing.assert_close(found[4:-4, 4:-4, 1], inner[None, 4:-4].expand(8, 8))


def test_the_same_size_changes_nothing() -> None:
    table = torch.randn(1, 17, 3)
    torch.testing.assert_close(interpolate_positions(table, 17), table)


@settings(deadline=None)
@given(st.integers(1, 1000), st.integers(1, 1000))
def test_extra_tokens_are_what_is_left_of_squares(old: int, new: int) -> None:
    fits: list[int | None] = [
        e
        for e in (0, 1, 2)
        if all(n > e and math.sqrt(n - e) == int(math.sqrt(n - e)) for n in (old, new))
    ]
    assert extra_tokens(old, new) in (fits or [None])
    # Squares next to each other are 0, 1 and 4 alone: nothing but tiny tables is in doubt.
    assert len(fits) <= 1 or min(old, new) <= 2


def test_a_text_table_is_refused() -> None:
    with pytest.raises(ValueError, match="512 and 1024 places are no squares"):
        interpolate_positions(torch.zeros(512, 4), 1024)


@pytest.mark.parametrize(
    "name",
    [
        "pos_embed",
        "vit.embeddings.position_embeddings",
        "encoder.pos_embedding",
        "visual.positional_embedding",
        "positional_encoding.weight",
        "embeddings.position_embedding.weight",
    ],
)
def test_tables_are_known_by_their_names(name: str) -> None:
    """As timm, transformers (ViT), torchvision and CLIP call theirs."""
    assert is_position_table(name)


@pytest.mark.parametrize("name", ["embed.weight", "pos_drop.weight", "compose.weight"])
def test_other_names_are_no_tables(name: str) -> None:
    assert not is_position_table(name)
