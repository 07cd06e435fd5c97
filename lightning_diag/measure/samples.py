"""How far the output of a function differs from sample to sample (W7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lightning_diag.measure.base import Call, CallMeasure, Columns, Numbers
from lightning_diag.measure.moments import plain, wide

_SAMPLES = 256
"""Samples of a call that are looked at, at most about (our choice): their spread is off by 4 %."""
_FEATURES = 32
"""Features of a sample that are looked at, evenly spread (our choice)."""


class SampleSpreadMeasure(CallMeasure):
    """Standard deviation of an output over samples, feature by feature.

    The spread over all elements does not tell a signal that is lost: biases differ from unit to
    unit, and are the same for each sample. The first dimension is taken for that of samples.

    Example:
        >>> call = Call("act/tanh#0", "tanh", "tanh", 1, torch.zeros(2, 2))
        >>> call.output = torch.tensor([[-9.0, 1.0, 2.0], [-9.0, 3.0, 2.0]]) * 3**0.5
        >>> measure = SampleSpreadMeasure()
        >>> columns = measure.after(call)
        >>> numbers = measure.summarise(["act/tanh#0"], columns.sums, columns.maxima)
        >>> round(numbers["sample_spread"]["act/tanh#0"], 5)
        1.0
    """

    name: ClassVar[str] = "activation"
    kinds: ClassVar[frozenset[str]] = frozenset({"relu", "leaky", "tanh", "smooth"})
    outputs: ClassVar[dict[str, str]] = {
        "sample_spread": "RMS over features of their standard deviation over samples; 0 or more",
    }

    def after(self, call: Call) -> Columns | None:
        """See `CallMeasure.after`.

        Shape:
            ``(batch, *)`` -> sums ``(1, 2 + 2 * 32)``, maxima ``(1, 0)``: samples, elements, and
            of each feature the sum and the sum of squares.
        """
        output = call.output
        if output is None:
            return None
        if output.dim() < 2 or output.numel() == 0 or output.layout != torch.strided:
            return None
        values = plain(output[:: max(1, len(output) // _SAMPLES)]).flatten(1)
        values = values[:, :: max(1, values.shape[1] // _FEATURES)][:, :_FEATURES]
        values = values.to(wide(values.device))
        empty = _FEATURES - values.shape[1]
        parts = [
            functional.pad(part, (0, empty)) for part in (values.sum(0), values.square().sum(0))
        ]
        counts = values.new_tensor([len(values), values.numel()])
        sums = torch.cat([counts, *parts]).unsqueeze(0)
        return Columns(sums, sums.new_zeros(1, 0))

    def summarise(self, places: Sequence[str], sums: Tensor, maxima: Tensor) -> Numbers:
        """See `Measure.summarise`."""
        found: dict[str, float] = {}
        for place, row in zip(places, sums.tolist(), strict=True):
            if (spread := _spread(row)) is not None:
                found[place] = spread
        return {"sample_spread": found}


def _spread(row: Sequence[float]) -> float | None:
    """Return the spread over samples; None with fewer than two of them, or if it is not finite."""
    samples, elements = row[:2]
    if samples < 2:
        return None
    totals, squares = row[2 : 2 + _FEATURES], row[2 + _FEATURES :]
    variance = sum(q / samples - (t / samples) ** 2 for t, q in zip(totals, squares, strict=True))
    # rounding may leave features that are constant with a variance just below 0
    found = math.sqrt(max(variance, 0.0) * samples / elements)
    return found if math.isfinite(variance) else None
