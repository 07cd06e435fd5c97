"""Histograms of activations, with a range from the data of an earlier step (W8)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lightning_diag.measure.activation import ACTIVATIONS
from lightning_diag.measure.base import Call, CallMeasure, Columns, Numbers, always
from lightning_diag.measure.moments import plain, wide

_ELEMENTS = 65_536
"""Our choice: of larger tensors every n-th element is counted, which leaves an error of each share
below 0.2 %."""


class HistogramMeasure(CallMeasure):
    """Counts of outputs in bins of equal width; the outermost take what lies beyond.

    All ranks and micro-batches must use the same bins, so the range comes from numbers that are on
    the host already: those of the last watched step.

    Args:
        bins: Number of bins, at least 2.
        ranges: Gives the range ``(low, high)`` of a place, or None to leave it out.
        due: See `CallMeasure`.
    """

    name: ClassVar[str] = "activation"
    kinds: ClassVar[frozenset[str]] = ACTIVATIONS
    outputs: ClassVar[dict[str, str]] = {
        "histogram": "list: lower and upper end of the range, then the count of each bin",
    }

    def __init__(
        self,
        bins: int,
        ranges: Callable[[str], tuple[float, float] | None],
        due: Callable[[], bool] = always,
    ) -> None:
        super().__init__(due)
        self.bins = bins
        self._ranges = ranges

    def after(self, call: Call) -> Columns | None:
        """See `CallMeasure.after`.

        Shape:
            ``(*)`` -> sums ``(1, bins)``, maxima ``(1, 0)``.
        """
        span = self._ranges(call.place)
        if span is None or call.output is None or call.output.numel() == 0:
            return None
        values = plain(call.output).reshape(-1)
        counts = histogram(values[:: _stride(values.numel())], self.bins, *span)
        return Columns(counts.unsqueeze(0), counts.new_zeros(1, 0))

    def summarise(self, places: Sequence[str], sums: Tensor, maxima: Tensor) -> Numbers:
        """Return nothing: the counts are a list, see `ActivationMonitor`."""
        return {}


def _stride(elements: int) -> int:
    """Return about ``elements / _ELEMENTS``, but no divisor: each row and column has its share."""
    stride = max(1, elements // _ELEMENTS)
    while math.gcd(stride, elements) > 1:
        stride += 1
    return stride


def histogram(values: Tensor, bins: int, low: float, high: float) -> Tensor:
    """Count values in bins of equal width; NaN is not counted.

    Shape:
        ``(n,)`` -> ``(bins,)``.

    Example:
        >>> histogram(torch.tensor([0.1, 0.9, 5.0]), 2, 0.0, 1.0)
        tensor([1., 2.], dtype=torch.float64)
    """
    counted = ~values.isnan()
    # divided twice, since a tiny range has no reciprocal in float32, and a huge one no length
    shares = (values / 2 - low / 2) / (high / 2 - low / 2)
    index = (shares.clamp(0, 1) * bins).clamp(max=bins - 1).nan_to_num().long()
    counts = torch.zeros(bins, dtype=wide(values.device), device=values.device)
    return counts.scatter_add_(0, index, counted.to(counts.dtype))
