"""What a loss function is given as target, and how predictions meet it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lightning_diag.measure.base import Columns, LossCall, Numbers, placed
from lightning_diag.measure.losses import (
    INDEX_LOSSES,
    REGRESSION_LOSSES,
    LossCallMeasure,
    count,
    rows_of,
    some,
)
from lightning_diag.measure.moments import Scalar, extremes, moments, plain, square_sum, wide

_COLUMNS = 64
"""Our choice: outputs of a sample whose spread over samples is followed."""
_SAMPLES = 1024
_REACH: dict[str, tuple[float, float]] = {
    "sigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "hardsigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "relu": (0.0, float("inf")),
    "softplus": (0.0, float("inf")),
    "exp": (0.0, float("inf")),
    "logsigmoid": (float("-inf"), 0.0),
    "log_softmax": (float("-inf"), 0.0),
}
"""What an activation function can put out."""
_BEYOND = 0.01
"""Our choice: how far a target must be from what can be reached, to count."""


class TargetMeasure(LossCallMeasure):
    """Level, spread and range of targets that are numbers, and what predictions explain of them."""

    name: ClassVar[str] = "target"
    outputs: ClassVar[dict[str, str]] = {
        "mean": "mean of the targets",
        "std": "population standard deviation of the targets; 0 or more",
        "min": "the smallest target",
        "max": "the largest target",
        "integer_fraction": "share of targets that are whole numbers, 0 to 1",
        "unreachable_fraction": "share of targets beyond what the output's activation function "
        "can return, 0 to 1; 0 where that has no bounds or is not known",
        "unexplained_ratio": "mean squared error over the variance of the targets: 1 is as good "
        "as the mean of the targets; absent where shapes differ or targets do not vary",
    }

    def observe(self, call: LossCall) -> Columns | None:
        """See `LossCallMeasure.observe`.

        Shape:
            ``(*)`` -> sums ``(1, 8)``, maxima ``(1, 2)``.
        """
        if call.function in INDEX_LOSSES:
            return None
        values = some(plain(call.target))
        if not values.numel():
            return None
        known = moments(values)
        whole = count(values == values.round())
        fits = call.input.shape == call.target.shape
        error = square_sum(some(plain(call.input)) - values) if fits else 0.0
        low, high = _REACH.get(call.activation, (float("-inf"), float("inf")))
        beyond: Scalar = 0.0
        if call.activation in _REACH and call.function in REGRESSION_LOSSES:
            beyond = count((values < low - _BEYOND) | (values > high + _BEYOND))
        columns = (known.count, known.total, known.squares, whole, beyond, error, float(fits), 1.0)
        return Columns.of(values.device, [columns], [extremes(values)])

    def summarise(self, places: Sequence[str], sums: Tensor, maxima: Tensor) -> Numbers:
        """See `Measure.summarise`."""
        number, total, squares, whole, beyond, error, fits, calls = sums.unbind(1)
        mean = total / number
        variance = (squares / number - mean * mean).clamp(min=0)
        varies = (fits == calls) & (variance > 1e-12 * mean * mean)
        share = error / number / variance.where(varies, torch.ones_like(variance))
        return {
            "mean": placed(places, mean),
            "std": placed(places, variance.sqrt()),
            "min": placed(places, -maxima[:, 1]),
            "max": placed(places, maxima[:, 0]),
            "integer_fraction": placed(places, whole / number),
            "unreachable_fraction": placed(places, beyond / number),
            "unexplained_ratio": placed(places, share, varies),
        }


class SpreadMeasure(LossCallMeasure):
    """How much of the spread of predictions, and of targets, is between samples.

    A network that ignores its input predicts the same for all samples, however much its outputs
    differ from each other.
    """

    name: ClassVar[str] = "spread"
    outputs: ClassVar[dict[str, str]] = {
        "output": "standard deviation of each output over samples, root mean square over outputs, "
        "over that of all outputs together; from 0, where all samples get the same, to 1",
        "target": "the same of targets that are numbers",
    }

    def observe(self, call: LossCall) -> Columns | None:
        """See `LossCallMeasure.observe`.

        Shape:
            ``(*)`` -> sums ``(1, 2 + 4 * 64)``, maxima ``(1, 0)``.
        """
        if call.function in INDEX_LOSSES:
            parts = [_column_sums(rows_of(plain(call.input)))]
        else:
            parts = [_column_sums(_samples(plain(call.input)))]
            if call.input.shape == call.target.shape:
                parts.append(_column_sums(_samples(plain(call.target))))
        sums = torch.cat([*parts, torch.zeros_like(parts[0])][:2])
        return Columns(sums.view(1, -1), sums.new_zeros(1, 0))

    def summarise(self, places: Sequence[str], sums: Tensor, maxima: Tensor) -> Numbers:
        """See `Measure.summarise`."""
        halves = dict(zip(self.outputs, sums.chunk(2, 1), strict=True))
        found: Numbers = {}
        for name, half in halves.items():
            shares = {
                place: share
                for place, row in zip(places, half, strict=True)
                if (share := between_samples(row)) is not None
            }
            found[name] = shares
        return found


def _samples(x: Tensor) -> Tensor:
    return x.reshape(1, -1) if x.dim() == 0 else x.flatten(1) if x.dim() > 1 else x.unsqueeze(1)


def _column_sums(rows: Tensor) -> Tensor:
    """Return samples, columns, and for each column its sum and its sum of squares, padded.

    Shape:
        ``(samples, outputs)`` -> ``(130,)``.
    """
    rows = rows[:: max(1, rows.shape[0] // _SAMPLES)]
    step = -(-rows.shape[1] // _COLUMNS)
    some_columns = rows[:, ::step].to(wide(rows.device))
    samples, width = some_columns.shape
    sums = some_columns.new_zeros(2 * _COLUMNS + 2)
    sums[0], sums[1] = samples, samples * width
    sums[2 : 2 + width] = some_columns.sum(0)
    sums[2 + _COLUMNS : 2 + _COLUMNS + width] = some_columns.square().sum(0)
    return sums


def between_samples(columns: Tensor) -> float | None:
    """Return the share of the spread that is between samples, None with fewer than two samples.

    Shape:
        ``(130,)`` as `_column_sums` makes them, added up -> a number.

    Example:
        >>> between_samples(_column_sums(torch.tensor([[1.0, 5.0], [1.0, 5.0]])))
        0.0
    """
    samples, elements = columns[:2].tolist()
    if samples < 2:
        return None
    width = round(elements / samples)
    totals, squares = columns[2 : 2 + width], columns[2 + _COLUMNS : 2 + _COLUMNS + width]
    means = totals / samples
    within = (squares / samples - means.square()).clamp(min=0).mean()
    level = means.square().mean()
    overall = within + means.var(correction=0)
    # below the rounding of a float32, nothing varies
    if not float(overall) > 1e-13 * float(level):
        return 0.0
    if not float(within) > 1e-13 * float(level):
        return 0.0
    return float((within / overall).sqrt())
