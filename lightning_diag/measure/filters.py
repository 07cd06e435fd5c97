"""The filters of a first layer as pictures, and how smooth they are (W9)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_diag.measure.base import Columns, Measure, Numbers
from lightning_diag.measure.moments import wide
from lightning_diag.measure.pictures import Layout, arranged, as_text, shrunk

FILTERS = 64
"""Our choice: filters of a layer that are shown, at most, the first ones."""
PIXELS = 65_536
"""Numbers of a layer that are shown, at most (our choice): 64 grey filters of 32 x 32."""

_PICTURED = 0.25
"""Smoothness from which on numbers in a row are a picture. Our choice: standardised 8 x 8 digits
have 0.38, other pictures more, and columns of a table about 0, with an error of 0.1."""


def kernels(weight: Tensor) -> Tensor:
    """Return the weight of a convolution as pictures; of other than 1 or 3 channels their mean.

    Shape:
        ``(filters, channels, height, width)`` -> the same, at most 64 filters and 32 x 32.
    """
    few = weight[:FILTERS].float()
    return _limited(few if few.shape[1] in (1, 3) else few.mean(1, keepdim=True))


def templates(weight: Tensor, layout: Layout) -> Tensor:
    """Return the weight of a linear layer, whose inputs are pictures, as pictures.

    Shape:
        ``(units, inputs)`` -> ``(filters, channels, height, width)``, as `kernels`.
    """
    return _limited(arranged(weight[:FILTERS].float(), layout))


def _limited(pictures: Tensor) -> Tensor:
    small = shrunk(pictures)
    return small[: max(1, PIXELS // small[0].numel())]


def smoothness(filters: Tensor) -> Tensor:
    """Return Moran's I of each filter: how far pixels that touch are alike.

    I = (N / pairs) * sum over pairs of (x_i - m) (x_j - m) / sum of (x_i - m)^2, in which pairs are
    the pixels that share a side; sums run over channels too, and m is the mean of the channel. It
    is 1 - N / pairs or so for a smooth slope, -1 / (N - 1) on average for noise, and -1 for a chess
    board.

    Shape:
        ``(filters, channels, height, width)`` -> ``(filters,)``, NaN where a filter is constant.

    Example:
        >>> board = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]])
        >>> smoothness(board)
        tensor([-1.], dtype=torch.float64)

    References:
        Moran, Notes on Continuous Stochastic Phenomena, Biometrika 37, 1950, pages 17 to 23.
    """
    x = filters.double()
    pixels = x.shape[-2] * x.shape[-1]
    pairs = 2 * pixels - x.shape[-2] - x.shape[-1]
    mean = x.mean(dim=(2, 3), keepdim=True)
    x = x - mean
    across = (x[..., 1:] * x[..., :-1]).sum(dim=(1, 2, 3))
    down = (x[..., 1:, :] * x[..., :-1, :]).sum(dim=(1, 2, 3))
    squares = x.square().sum(dim=(1, 2, 3))
    # what is left of a constant is rounding
    varies = squares > 1e-12 * pixels * mean.square().sum(dim=(1, 2, 3))
    found = pixels / max(1, pairs) * (across + down) / squares
    return found.where(varies, torch.full_like(found, math.nan))


def looks_pictured(samples: Tensor) -> bool:
    """Whether numbers in a row are those of pictures: neighbours in the square are alike.

    Tables and features may have as many numbers as a square by chance.

    Args:
        samples: ``(n, channels, height, width)``; waits for their device.

    Example:
        >>> looks_pictured(torch.arange(64.0).reshape(1, 1, 8, 8))
        True
    """
    found = mean_smoothness(samples[:FILTERS])
    return found is not None and found > _PICTURED


class FilterMeasure(Measure):
    """The pixels of filters, and the mean of their smoothness.

    Example:
        >>> measure = FilterMeasure()
        >>> columns = measure.observe(torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]]))
        >>> measure.summarise(["0.weight"], columns.sums, columns.maxima)
        {'smoothness': {'0.weight': -1.0}}
    """

    name: ClassVar[str] = "filter"
    outputs: ClassVar[dict[str, str]] = {
        "smoothness": "mean over filters of Moran's I, the correlation of pixels that touch: "
        "0 or so for noise, to 1 for what is smooth, below 0 for what alternates"
    }

    def observe(self, filters: Tensor) -> Columns:
        """Lay filters out as columns, which replicas of a layer add up to.

        Shape:
            ``(filters, channels, height, width)`` -> sums ``(1, 1 + numbers)``, maxima ``(1, 3)``.
        """
        numbers = filters.detach().flatten().to(wide(filters.device))
        sums = torch.cat([numbers.new_ones(1), numbers])[None]
        shape = torch.tensor([filters.shape[1:]], dtype=sums.dtype, device="cpu")
        return Columns(sums, shape.to(sums.device, non_blocking=True))

    def summarise(self, places: Sequence[str], sums: Tensor, maxima: Tensor) -> Numbers:
        """See `Measure.summarise`."""
        found = {}
        for i, place in enumerate(places):
            value = mean_smoothness(pictures(sums[i], maxima[i]))
            if value is not None:
                found[place] = value
        return {"smoothness": found}


def pictures(sums: Tensor, maxima: Tensor) -> Tensor:
    """Return the filters that joined columns of one layer hold, their mean over ranks.

    Shape:
        ``(1 + numbers,)`` and ``(3,)`` -> ``(filters, channels, height, width)``.
    """
    channels, height, width = (int(size) for size in maxima.tolist())
    return (sums[1:] / sums[0]).reshape(-1, channels, height, width)


def mean_smoothness(filters: Tensor) -> float | None:
    """Return the mean over the filters that vary; None if none does, or not all are finite.

    Example:
        >>> mean_smoothness(torch.zeros(2, 1, 3, 3)) is None
        True
    """
    if not bool(filters.isfinite().all()):
        return None
    of_each = smoothness(filters)
    varying = of_each[~of_each.isnan()]
    return float(varying.mean()) if varying.numel() else None


def shown(filters: Tensor, smooth: float | None) -> dict[str, Any]:
    """Return filters as what a history shows: one scale for all, on which grey 128 is 0.

    Args:
        filters: ``(filters, channels, height, width)``.
        smooth: Their mean smoothness.

    Example:
        >>> shown(torch.tensor([[[[0.0, 0.5], [-0.5, 0.25]]]]), None)["limit"]
        0.5
    """
    limit = float(filters.nan_to_num(0.0, 0.0, 0.0).abs().max())
    count, channels, height, width = filters.shape
    return {
        "shape": [count, height, width, channels],
        "limit": limit,
        "smoothness": smooth,
        "pixels": as_text(127.5 + 127.5 * filters / (limit or 1.0)),
    }
