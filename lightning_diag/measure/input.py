"""What enters a network: the values that its first layer is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lightning_diag.measure.base import Call, CallMeasure, Columns, Numbers, always
from lightning_diag.measure.data import thinned
from lightning_diag.measure.moments import nonfinite_count, wide

_FEATURES = 1024
"""Features that are told apart; of more, evenly spread ones are."""


class InputMeasure(CallMeasure):
    """Moments of what a layer is given.

    Args:
        wanted: Says whether a call is one of those to look at.
        due: See `CallMeasure`.
    """

    name: ClassVar[str] = "input"
    kinds: ClassVar[frozenset[str]] = frozenset({"layer"})
    outputs: ClassVar[dict[str, str]] = {
        "mean": "mean of the values that enter the network's first layer",
        "std": "their standard deviation, at least 0",
        "nonfinite_count": "NaN and infinite ones among them",
    }

    def __init__(self, wanted: Callable[[Call], bool], due: Callable[[], bool] = always) -> None:
        super().__init__(due)
        self._wanted = wanted

    def before(self, call: Call) -> Columns | None:
        """See `CallMeasure.before`."""
        if not self._wanted(call):
            return None
        moments = call.cache.of(call.input)
        bad = nonfinite_count(call.input, moments.total)
        return Columns.of(call.input.device, [[moments.count, moments.total, moments.squares, bad]])

    def summarise(self, places: Sequence[str], sums: Tensor, maxima: Tensor) -> Numbers:
        """See `Measure.summarise`."""
        numbers: Numbers = {"mean": {}, "std": {}, "nonfinite_count": {}}
        for place, (count, total, squares, bad) in zip(places, sums.tolist(), strict=True):
            numbers["nonfinite_count"][place] = bad
            if count > 0 and bad == 0:
                mean = total / count
                numbers["mean"][place] = mean
                numbers["std"][place] = math.sqrt(max(0.0, squares / count - mean * mean))
        return numbers


class FeatureMeasure(CallMeasure):
    """Moments of each feature of what a layer is given, of a part of the elements.

    Args:
        wanted: Says whether a call is one of those to look at.
        due: See `CallMeasure`.
    """

    name: ClassVar[str] = "input"
    kinds: ClassVar[frozenset[str]] = frozenset({"layer"})
    outputs: ClassVar[dict[str, str]] = {
        "max": "largest absolute value",
        "offset": "RMS over features of mean over standard deviation (at least the median one)",
        "scale_ratio": "largest over median standard deviation of features, at least 1",
        "constant_fraction": "share of features that never change, 0 to 1",
        "binary_fraction": "share of features that are 0 or 1 throughout, 0 to 1",
        "samples": "samples that these rest on",
    }

    def __init__(self, wanted: Callable[[Call], bool], due: Callable[[], bool] = always) -> None:
        super().__init__(due)
        self._wanted = wanted

    def before(self, call: Call) -> Columns | None:
        """See `CallMeasure.before`."""
        x = call.input
        if x.layout is not torch.strided or x.numel() == 0 or not self._wanted(call):
            return None
        return feature_columns(x, call.unit_dim)

    def summarise(self, places: Sequence[str], sums: Tensor, maxima: Tensor) -> Numbers:
        """See `Measure.summarise`."""
        numbers: Numbers = {}
        for place, own_sums, own_maxima in zip(places, sums, maxima, strict=True):
            for output, value in feature_numbers(own_sums, own_maxima).items():
                numbers.setdefault(output, {})[place] = value
        return numbers


def feature_columns(x: Tensor, feature_dim: int) -> Columns:
    """Return count, sum, squares and extremes of each feature of a part of `x`, NaN left out.

    Args:
        x: Samples along its first dimension, if it has more than one; dense, and not empty. Of
            complex numbers the magnitudes count.
        feature_dim: The dimension that counts features.

    Shape:
        ``(*)`` -> sums ``(1, 1 + 3 * features)``, the first of them the number of samples, and
        maxima ``(1, 2 * features)``: largest and negative smallest.
    """
    x = x.detach().reshape(x.shape or (1,))
    x = x.abs() if x.is_complex() else x
    samples = x.shape[0] if x.dim() > 1 else 1
    rows = x.movedim(feature_dim, -1)
    rows = rows[..., :: max(1, math.ceil(rows.shape[-1] / _FEATURES))]
    rows = thinned(rows, keep_last=True).reshape(-1, rows.shape[-1]).to(wide(x.device))
    finite = torch.isfinite(rows)
    counts = finite.sum(0).to(rows.dtype)
    if x.device.type != "cpu" or counts.sum() < rows.numel():
        known = torch.where(finite, rows, 0.0)
        high = torch.where(finite, rows, -math.inf)
        low = torch.where(finite, -rows, -math.inf)
    else:
        known, high, low = rows, rows, -rows
    totals, squares = known.sum(0), known.square().sum(0)
    sums = torch.cat([counts.new_full((1,), samples), counts, totals, squares])
    return Columns(sums[None], torch.cat([high.amax(0), low.amax(0)])[None])


def feature_numbers(sums: Tensor, maxima: Tensor) -> dict[str, float]:
    """Turn the joined columns of one place into numbers; absent where there is nothing to tell.

    Offset and scale are those of features that change and are more than zeros and ones. The median
    is the lower one of two.

    Shape:
        ``(1 + 3 * features)``, ``(2 * features)``
    """
    samples, (counts, totals, squares) = float(sums[0]), sums[1:].view(3, -1)
    high, low = maxima.view(2, -1)[0], -maxima.view(2, -1)[1]
    seen = counts > 0
    if not bool(seen.any()):
        return {}
    counts, totals, squares, high, low = (v[seen] for v in (counts, totals, squares, high, low))
    constant = high == low
    binary = (low >= 0) & (high <= 1) & (totals == squares)
    mean = totals / counts
    std = (squares / counts - mean.square()).clamp(min=0).sqrt()
    varied = ~constant & ~binary & (std > 0)
    numbers = {
        "max": float(torch.maximum(high, -low).max()),
        "constant_fraction": float(constant.double().mean()),
        "binary_fraction": float((binary & ~constant).double().mean()),
        "samples": samples,
    }
    if bool(varied.any()):
        mean, std = mean[varied], std[varied]
        middle = std.median()
        # a pixel that hardly ever changes is not far from zero because of that
        numbers["offset"] = float((mean / std.clamp(min=middle)).square().mean().sqrt())
        numbers["scale_ratio"] = float(std.max() / middle)
    return numbers
