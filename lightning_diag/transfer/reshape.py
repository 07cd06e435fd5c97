"""Tensors of other sizes made to fit: first convolutions, tables of positions."""

from __future__ import annotations

import math
import re
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Channels = Literal["auto", "sum", "mean", "repeat"]
CHANNELS: tuple[Channels, ...] = ("auto", "sum", "mean", "repeat")
Positions = Literal["bicubic", "bilinear"]
POSITIONS: tuple[Positions, ...] = ("bicubic", "bilinear")

_POSITION_NAME = re.compile(r"pos(ition(al|s)?)?_?(emb(ed(ding)?s?)?|enc(oding)?s?)", re.IGNORECASE)
_MOST_EXTRA_TOKENS = 2
"""A class token, and the distillation token of DeiT."""


def adapt_channels(weight: Tensor, channels: int, how: Channels = "auto") -> Tensor:
    """Return a convolution's weight for another number of input channels.

    With c channels in `weight` and n wanted:

    * ``sum``: each new channel is the sum of all old ones over n. An image whose channels are all
      alike gets the same answer as before. For n = 1 it is the plain sum.
    * ``repeat``: the old ones in turn, times c / n.
    * ``mean``: each new channel is the mean of the old ones, as Wang et al. took over RGB filters
      for optical flow. An image with equal channels gets an answer n / c times as large.
    * ``auto``: ``sum`` to one channel, ``repeat`` otherwise, as timm does.

    Shape:
        ``(out, c, *kernel) -> (out, n, *kernel)``, in the same dtype.

    Example:
        >>> weight = torch.tensor([1.0, 2.0, 6.0]).reshape(1, 3, 1, 1)
        >>> adapt_channels(weight, 1).flatten().tolist()
        [9.0]
        >>> adapt_channels(weight, 6, "repeat").flatten().tolist()
        [0.5, 1.0, 3.0, 0.5, 1.0, 3.0]

    References:
        Wang et al., Temporal Segment Networks, 2016, section 3.2 (cross modality pre-training).
        Wightman, PyTorch Image Models (timm), ``adapt_input_conv``.
    """
    wide = widened(weight.detach())
    old = wide.shape[1]
    if how == "repeat" or (how == "auto" and channels > 1):
        new = wide[:, torch.arange(channels) % old] * (old / channels)
    else:
        divisor = old if how == "mean" else channels
        new = (wide.sum(1, keepdim=True) / divisor).repeat_interleave(channels, 1)
    return new.to(weight.dtype)


def widened(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 at least."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def is_position_table(name: str) -> bool:
    """Whether a name is one that positional embeddings go by.

    Example:
        >>> [is_position_table(name) for name in ("vit.pos_embed", "embedding.weight")]
        [True, False]
    """
    return _POSITION_NAME.search(name) is not None


def extra_tokens(old: int, new: int) -> int | None:
    """Return how many places of two tables stand for no patch, None if the rest is no square.

    Both must have the same number: a class token (ViT), none, or two (DeiT).

    Example:
        >>> extra_tokens(1 + 14 * 14, 1 + 24 * 24), extra_tokens(196, 64), extra_tokens(512, 1024)
        (1, 0, None)
    """
    for extra in (1, 0, _MOST_EXTRA_TOKENS):
        if _is_square(old - extra) and _is_square(new - extra):
            return extra
    return None


def _is_square(n: int) -> bool:
    return n > 0 and math.isqrt(n) ** 2 == n


def interpolate_positions(table: Tensor, places: int, how: Positions = "bicubic") -> Tensor:
    """Return a table of positional embeddings for another number of patches.

    Patches stand in a square, row by row; what stands before them (class token) is kept as it is.
    When there are fewer places than before, an antialiasing filter is used, as timm does.

    Shape:
        ``(1, N, D) -> (1, places, D)``, or ``(N, D) -> (places, D)``, in the same dtype.

    Raises:
        ValueError: If the places are no square, with the same extra tokens on both sides.

    References:
        Dosovitskiy et al., An Image is Worth 16x16 Words, 2021, section 3.2 (higher resolution).
        Wightman, PyTorch Image Models (timm), ``resample_abs_pos_embed``.
    """
    extra = extra_tokens(table.shape[-2], places)
    if extra is None:
        raise ValueError(f"{table.shape[-2]} and {places} places are no squares of patches.")
    depth = table.shape[-1]
    rows = widened(table.detach()).reshape(-1, depth)
    old, new = math.isqrt(len(rows) - extra), math.isqrt(places - extra)
    grid = rows[extra:].reshape(1, old, old, depth).permute(0, 3, 1, 2)
    resized = functional.interpolate(grid, (new, new), mode=how, antialias=True)
    patches = resized.permute(0, 2, 3, 1).reshape(new * new, depth)
    shape = (*table.shape[:-2], places, depth)
    return torch.cat([rows[:extra], patches]).reshape(shape).to(table.dtype)
