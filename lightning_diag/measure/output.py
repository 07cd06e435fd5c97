"""What a loss function is given as prediction, and what it returns (C1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_diag.measure.base import Columns, LossCall, Numbers, placed
from lightning_diag.measure.losses import (
    COMPARING_LOSSES,
    INDEX_LOSSES,
    LAST_LOSSES,
    ROW_LOSSES,
    LossCallMeasure,
    classes_of,
    count,
    rows_of,
    scalar,
    some,
)
from lightning_diag.measure.moments import Scalar, extremes, plain

FUNCTIONS: tuple[str, ...] = (
    *("", "softmax", "log_softmax", "log", "sigmoid", "logsigmoid", "tanh", "relu"),
    *("hardtanh", "hardsigmoid", "softplus", "exp"),
)
_REDUCTIONS = ("mean", "sum", "none", "batchmean")
_DTYPES: tuple[str, ...] = (
    *("float32", "float64", "float16", "bfloat16"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
)
_ROWS = 256
"""Our choice: rows that are tested for being a distribution. All are, or none."""
_DIMENSIONS = 4
_EXACT, _ROUNDED = 1e-3, 2e-2
"""How far a sum of probabilities may be from 1, in float32 and in 16 bits (our choice: ten times
the rounding of a thousand classes)."""


class PredictionMeasure(LossCallMeasure):
    """Level, spread and range of the predictions of a loss call, and what it returned.

    Its maxima also describe the call: they are the same for all calls of a step, or those of the
    largest micro-batch.

    Example:
        >>> call = LossCall("mse_loss#0", "mse_loss", "loss", 1, torch.tensor([0.0, 2.0]))
        >>> call.output, call.target = torch.tensor(5.0), torch.tensor([3.0, 3.0])
        >>> columns = PredictionMeasure().observe(call)
        >>> numbers = PredictionMeasure().summarise([call.place], columns.sums, columns.maxima)
        >>> [numbers[name]["mse_loss#0"] for name in ("mean", "std", "loss", "max")]
        [1.0, 1.0, 5.0, 2.0]
    """

    name: ClassVar[str] = "output"
    outputs: ClassVar[dict[str, str]] = {
        "mean": "mean of the predictions that the loss function is given",
        "std": "population standard deviation of these; 0 or more",
        "min": "smallest of these",
        "max": "largest of these",
        "loss": "what the function returned, its mean where it returned more than one number",
        "probability_fraction": "share of rows that are at least 0 and add up to 1, or, for "
        "losses of single elements, of elements within these bounds; 0 to 1",
        "log_probability_fraction": "share of rows whose exponentials add up to 1; 0 to 1",
    }

    def observe(self, call: LossCall) -> Columns | None:
        """See `LossCallMeasure.observe`.

        Shape:
            ``(*)`` -> sums ``(1, 8)``, maxima ``(1, 20)``.
        """
        assert call.output is not None
        known = call.cache.of(call.input)
        x = plain(call.input)
        loss = call.output.detach()
        value = scalar(loss if loss.dim() == 0 else loss.float().mean())
        shares: tuple[Scalar, Scalar, Scalar] = (0.0, 0.0, 0.0)
        if call.function in ROW_LOSSES:
            is_short = call.input.dtype in (torch.float16, torch.bfloat16)
            rows = rows_of(x, -1 if call.function in LAST_LOSSES else 1)
            shares = distributions(rows, _ROUNDED if is_short else _EXACT)
        elif call.function not in COMPARING_LOSSES:
            values = some(x)
            shares = (float(values.numel()), count((values >= 0) & (values <= 1)), 0.0)
        sums = (known.count, known.total, known.squares, value, 1.0, *shares)
        return Columns.of(x.device, [sums], [(*extremes(x), *described(call))])

    def summarise(self, places: Sequence[str], sums: Tensor, maxima: Tensor) -> Numbers:
        """See `Measure.summarise`."""
        number, total, squares, loss, calls, rows, probabilities, logs = sums.unbind(1)
        mean = total / number
        variance = (squares / number - mean * mean).clamp(min=0)
        of_rows = [function_of(place) in ROW_LOSSES for place in places]
        has_rows = torch.tensor(of_rows, device=sums.device)
        return {
            "mean": placed(places, mean),
            "std": placed(places, variance.sqrt()),
            "min": placed(places, -maxima[:, 1]),
            "max": placed(places, maxima[:, 0]),
            "loss": placed(places, loss / calls),
            "probability_fraction": placed(places, probabilities / rows, rows > 0),
            "log_probability_fraction": placed(places, logs / rows, has_rows & (rows > 0)),
        }


def function_of(place: str) -> str:
    """Return the function of a call.

    Example:
        >>> function_of("criterion/mse_loss#0")
        'mse_loss'
    """
    return place.rpartition("/")[2].partition("#")[0]


def described(call: LossCall) -> list[float]:
    """Return what a call is, as numbers that join by max."""
    x, target = call.input, call.target
    has_target = target.numel() > 0
    return [
        float(_REDUCTIONS.index(call.reduction)) if call.reduction in _REDUCTIONS else 0.0,
        float(_DTYPES.index(_name(target)) if has_target and _name(target) in _DTYPES else -1),
        float(FUNCTIONS.index(call.activation)),
        float(call.weighted),
        -1e9 if call.ignore_index is None else float(call.ignore_index),
        call.scale,
        float(classes_of(call)),
        float(broadcasts(x, target) and call.function not in INDEX_LOSSES),
        float(x.dim()),
        *_shape(x),
        float(target.dim() if has_target else 0),
        *_shape(target),
    ]


def _name(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _shape(x: Tensor) -> list[float]:
    sizes = [float(size) for size in x.shape[:_DIMENSIONS]]
    return sizes + [0.0] * (_DIMENSIONS - len(sizes))


def broadcasts(x: Tensor, target: Tensor) -> bool:
    """Return whether both tensors are repeated to match, so that each meets what is not its own.

    Example:
        >>> broadcasts(torch.zeros(4, 1), torch.zeros(4))
        True
        >>> broadcasts(torch.zeros(4, 3), torch.zeros(3))
        False
    """
    if x.shape == target.shape:
        return False
    try:
        shape: tuple[int, ...] = torch.broadcast_shapes(x.shape, target.shape)
    except RuntimeError:
        return False
    return math.prod(shape) > max(x.numel(), target.numel())


def description(place: str, maxima: Tensor) -> dict[str, Any]:
    """Return what the maxima of `PredictionMeasure` say of a call, in plain values."""
    numbers = maxima[2:].tolist()
    reduction, dtype, activation, weighted, ignored, scale, classes, broadcast = numbers[:8]
    x, target = numbers[8:13], numbers[13:18]
    return {
        "function": function_of(place),
        "reduction": _REDUCTIONS[int(reduction)],
        "classes": int(classes),
        "input_shape": [int(size) for size in x[1 : 1 + int(x[0])]],
        "target_shape": [int(size) for size in target[1 : 1 + int(target[0])]],
        "target_dtype": _DTYPES[int(dtype)] if dtype >= 0 else "",
        "weighted": weighted > 0,
        "ignore_index": None if ignored == -1e9 else int(ignored),
        "activation": FUNCTIONS[int(activation)],
        "scale": scale,
        "broadcast": broadcast > 0,
    }


def distributions(rows: Tensor, tolerance: float) -> tuple[Scalar, Scalar, Scalar]:
    """Count rows, those that add up to 1 with no negative number, and those whose exponentials do.

    Of many rows every n-th. A row of one class is no distribution.

    Shape:
        ``(rows, classes)`` -> three scalars.

    Example:
        >>> distributions(torch.tensor([[0.5, 0.5], [1.0, 2.0], [-0.6931, -0.6931]]), 1e-3)
        (3.0, 1.0, 1.0)
    """
    rows = rows[:: max(1, rows.shape[0] // _ROWS)]
    if rows.shape[1] < 2:
        return 0.0, 0.0, 0.0
    sums_to_one = (rows.sum(1) - 1).abs() < tolerance
    is_positive = rows.amin(1) >= 0
    logs = rows.logsumexp(1).abs() < tolerance
    return float(rows.shape[0]), count(sums_to_one & is_positive), count(logs)
