"""Tensors as small pictures: where height, width and colours lie, shrinking, and bytes."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

SIDE = 32
"""Our choice: pixels along the longer side of a picture, at most."""
_COLOURS = (1, 3)
_LEAST = 4
"""Our choice: fewer pixels along a side show nothing."""
_LEAST_FLAT = 8
"""The same where only the count of numbers speaks for a picture, as in the 8 x 8 digits."""


class Layout(NamedTuple):
    """How a sample's numbers make a picture."""

    height: int
    width: int
    channels: int
    """1 or 3."""
    is_last: bool
    """Whether channels are the last dimension."""


def layout_of(shape: Sequence[int]) -> Layout | None:
    """Return how samples of this shape make a picture, None if they make none.

    One or three channels, first or last; a square without channels; or as many numbers in a row as
    a square of at least 8 x 8 has, channels first.

    Example:
        >>> layout_of((3, 32, 48))
        Layout(height=32, width=48, channels=3, is_last=False)
        >>> layout_of((784,))
        Layout(height=28, width=28, channels=1, is_last=False)
        >>> layout_of((20, 7)) is None
        True
    """
    if len(shape) == 3:
        is_last = shape[0] not in _COLOURS
        channels, height, width = (shape[-1], *shape[:2]) if is_last else shape
        fits = channels in _COLOURS and min(height, width) >= _LEAST
        return Layout(height, width, channels, is_last) if fits else None
    if len(shape) == 2:
        height, width = shape
        is_square = height == width >= _LEAST
        return Layout(height, width, 1, is_last=False) if is_square else None
    for channels in _COLOURS if len(shape) == 1 else ():
        side = math.isqrt(shape[0] // channels)
        if side >= _LEAST_FLAT and channels * side * side == shape[0]:
            return Layout(side, side, channels, is_last=False)
    return None


def arranged(rows: Tensor, layout: Layout) -> Tensor:
    """Return rows of numbers as pictures.

    Shape:
        ``(n, *)`` -> ``(n, channels, height, width)``.
    """
    height, width, channels, is_last = layout
    if is_last:
        return rows.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
    return rows.reshape(-1, channels, height, width)


def shrunk(pictures: Tensor, side: int = SIDE) -> Tensor:
    """Average neighbouring pixels until the longer side has at most `side` of them.

    Shape:
        ``(n, channels, height, width)`` -> the same, smaller.

    Example:
        >>> shrunk(torch.zeros(2, 3, 224, 100)).shape
        torch.Size([2, 3, 32, 15])
    """
    height, width = pictures.shape[-2:]
    factor = math.ceil(max(height, width) / side)
    if factor <= 1:
        return pictures
    size = (math.ceil(height / factor), math.ceil(width / factor))
    return functional.adaptive_avg_pool2d(pictures, size)


def as_text(pixels: Tensor) -> str:
    """Return the bytes of pictures as base64: rows of pixels, with channels last.

    Args:
        pixels: ``(*, channels, height, width)``, from 0 to 255 once they are rounded.

    Example:
        >>> as_text(torch.tensor([[[0.0, 255.0]]]))
        'AP8='
    """
    return base64.b64encode(_bytes(pixels)).decode()


def as_texts(pictures: Tensor) -> list[str]:
    """Return each of some pictures as `as_text` does.

    Args:
        pictures: ``(n, channels, height, width)``, from 0 to 255 once they are rounded.
    """
    whole, size = _bytes(pictures), pictures[0].numel()
    parts = (whole[i : i + size] for i in range(0, len(whole), size))
    return [base64.b64encode(part).decode() for part in parts]


def _bytes(pixels: Tensor) -> bytes:
    whole = pixels.nan_to_num(128.0).round().clamp(0, 255).to("cpu", torch.uint8)
    found: bytes = whole.movedim(-3, -1).contiguous().numpy().tobytes()
    return found
