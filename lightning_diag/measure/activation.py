"""Activations at each call site: level, spread, saturation, variance gain (W3, W4, W7, W8)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lightning_diag.measure.base import Call, CallMeasure, Columns, Numbers, always, placed
from lightning_diag.measure.moments import Scalar, extremes, nonfinite_count, nonzero_count, plain

ACTIVATIONS = frozenset({"relu", "leaky", "sigmoid", "tanh", "hard", "softmax", "smooth"})


class OutputMeasure(CallMeasure):
    """Mean, spread, largest value, exact zeros and non-finite values of what a function returns.

    Args:
        zeros_due: Whether to count zeros, which costs as much as the rest; always by default.

    Example:
        >>> call = Call("act/relu#0", "relu", "relu", 1, torch.zeros(1, 2))
        >>> call.output = torch.tensor([[0.0, 4.0]])
        >>> columns = OutputMeasure().after(call)
        >>> numbers = OutputMeasure().summarise([call.place], columns.sums, columns.maxima)
        >>> [round(numbers[name]["act/relu#0"], 5) for name in ("mean", "std", "zero_fraction")]
        [2.0, 2.0, 0.5]
    """

    name: ClassVar[str] = "activation"
    kinds: ClassVar[frozenset[str]] = ACTIVATIONS
    outputs: ClassVar[dict[str, str]] = {
        "mean": "mean of the output over all its elements",
        "std": "population standard deviation of the output; 0 or more",
        "max": "largest absolute output; 0 or more",
        "zero_fraction": "share of exact zeros in the output, 0 to 1",
        "nonfinite_count": "NaN and infinite elements of the output",
    }

    def __init__(self, zeros_due: Callable[[], bool] = always) -> None:
        super().__init__()
        self._zeros_due = zeros_due

    def after(self, call: Call) -> Columns | None:
        """See `CallMeasure.after`.

        Shape:
            ``(*)`` -> sums ``(1, 6)``, maxima ``(1, 2)``: the largest and minus the smallest.
        """
        if call.output is None or call.output.numel() == 0:
            return None
        known = call.cache.of(call.output)
        values = plain(call.output)
        bad = nonfinite_count(values, known.squares)
        nonzeros: Scalar = 0.0
        counted = 0.0
        if self._zeros_due():
            nonzeros, counted = nonzero_count(values), known.count
        return Columns.of(
            values.device,
            [(known.count, known.total, known.squares, bad, nonzeros, counted)],
            [extremes(values)],
        )

    def summarise(self, places: Sequence[str], sums: Tensor, maxima: Tensor) -> Numbers:
        """See `Measure.summarise`."""
        count, total, squares, nonfinite, nonzeros, counted = sums.unbind(1)
        return {
            "mean": placed(places, total / count),
            "std": placed(places, _variance(count, total, squares).sqrt()),
            "max": placed(places, maxima.amax(1)),
            "zero_fraction": placed(places, 1 - nonzeros / counted, counted > 0),
            "nonfinite_count": placed(places, nonfinite),
        }


SATURATION: dict[str, tuple[float, float]] = {
    # inputs at or below the first and at or above the second number are where the function is flat
    "sigmoid": (-4.0, 4.0),
    "tanh": (-3.0, 3.0),
    "softsign": (-9.0, 9.0),
    "hardtanh": (-1.0, 1.0),
    "hardsigmoid": (-3.0, 3.0),
    "relu6": (-math.inf, 6.0),
    "hardswish": (-3.0, math.inf),
    "gelu": (-3.0, math.inf),
    "silu": (-6.0, math.inf),
    "mish": (-6.0, math.inf),
}
"""Bounds of the input by function, outside of which its slope is below a tenth of its steepest.

For the sigmoid the bounds are those of W3: at 4 its slope is 0.018, 7 % of the 0.25 at 0. tanh
keeps 1 % of its slope at 3 (our choice: healthy tanh units often reach 2), softsign at 9. The hard
functions are exactly flat outside their corners. GELU has a slope of -0.012 at -3, SiLU and Mish
of -0.012 at -6.
"""
_SOFTMAX_PEAK = 0.99
"""Our choice: past this, a softmax has less than 4 % of its steepest slope left."""


class SaturationMeasure(CallMeasure):
    """Share of a saturating function's inputs at which it is flat.

    For softmax: share of the distributions whose largest probability is above 0.99. Softmax over
    one class is left out.

    Example:
        >>> call = Call("act/tanh#0", "tanh", "tanh", 1, torch.tensor([[-9.0, 0.0, 0.1, 9.0]]))
        >>> columns = SaturationMeasure().before(call)
        >>> SaturationMeasure().summarise(["a"], columns.sums, columns.maxima)
        {'saturated_fraction': {'a': 0.5}}
    """

    name: ClassVar[str] = "activation"
    kinds: ClassVar[frozenset[str]] = frozenset({"sigmoid", "tanh", "hard", "softmax"})
    outputs: ClassVar[dict[str, str]] = {
        "saturated_fraction": "share of inputs where the function is flat, 0 to 1",
    }

    def before(self, call: Call) -> Columns | None:
        """See `CallMeasure.before`.

        Shape:
            ``(*)`` -> sums ``(1, 2)``, maxima ``(1, 0)``.
        """
        bounds = SATURATION.get(call.function)
        if bounds is None or call.input.numel() == 0:
            return None
        x = plain(call.input)
        outside = [
            _count(x, bound, above=above)
            for bound, above in zip(bounds, (False, True), strict=True)
        ]
        return Columns.of(x.device, [(outside[0] + outside[1], float(x.numel()))])

    def after(self, call: Call) -> Columns | None:
        """Look at the largest probability of each distribution.

        Shape:
            ``(*)`` -> sums ``(1, 2)``, maxima ``(1, 0)``.
        """
        output = call.output
        if call.kind != "softmax" or output is None or output.numel() == 0 or output.dim() == 0:
            return None
        if output.shape[call.unit_dim] < 2:
            return None
        peak = plain(output).amax(call.unit_dim)
        limit = math.log(_SOFTMAX_PEAK) if call.function == "log_softmax" else _SOFTMAX_PEAK
        return Columns.of(peak.device, [(_count(peak, limit, above=True), float(peak.numel()))])

    def summarise(self, places: Sequence[str], sums: Tensor, maxima: Tensor) -> Numbers:
        """See `Measure.summarise`."""
        return {"saturated_fraction": placed(places, sums[:, 0] / sums[:, 1])}


_TAILED = ("gelu", "silu", "mish")


def has_tail(place: str) -> bool:
    """Whether a call site is of a function that fades out on one side without being flat.

    Example:
        >>> has_tail("block.1/gelu#0"), has_tail("gate/sigmoid#0")
        (True, False)
    """
    return place.rpartition("/")[2].startswith(_TAILED)


class TailMeasure(SaturationMeasure):
    """Share of inputs at which GELU, SiLU and the like have faded out; no fault by itself (W4)."""

    kinds: ClassVar[frozenset[str]] = frozenset({"smooth"})


class VarianceGainMeasure(CallMeasure):
    """Variance of a layer's output over the variance of its input (Glorot & Bengio 2010, W7).

    Absent where the input did not vary.

    References:
        Glorot and Bengio, Understanding the difficulty of training deep feedforward neural
        networks, AISTATS 2010.
    """

    name: ClassVar[str] = "activation"
    kinds: ClassVar[frozenset[str]] = frozenset({"layer"})
    outputs: ClassVar[dict[str, str]] = {
        "variance_gain": "variance of the output over variance of the input; 1 keeps the signal",
    }

    def after(self, call: Call) -> Columns | None:
        """See `CallMeasure.after`.

        Shape:
            ``(*)`` -> sums ``(1, 6)``, maxima ``(1, 0)``.
        """
        if call.output is None or call.output.numel() == 0 or call.input.numel() == 0:
            return None
        parts = (call.cache.of(call.input), call.cache.of(call.output))
        columns = [part for m in parts for part in (m.count, m.total, m.squares)]
        return Columns.of(call.output.device, [columns])

    def summarise(self, places: Sequence[str], sums: Tensor, maxima: Tensor) -> Numbers:
        """See `Measure.summarise`."""
        incoming = _variance(*sums[:, :3].unbind(1))
        outgoing = _variance(*sums[:, 3:].unbind(1))
        varies = incoming != 0  # NaN stays: what is not finite must show
        gain = outgoing / incoming.where(varies, torch.ones_like(incoming))
        return {"variance_gain": placed(places, gain, varies)}


def _variance(count: Tensor, total: Tensor, squares: Tensor) -> Tensor:
    variance = squares / count - (total / count).square()
    # rounding may leave a constant tensor with a variance just below 0
    return torch.where(variance < 0, torch.zeros_like(variance), variance)


def _count(x: Tensor, bound: float, *, above: bool) -> Scalar:
    if math.isinf(bound):
        return 0.0
    if x.device.type != "cpu":
        return torch.count_nonzero(x >= bound if above else x <= bound)
    # on a CPU, floats of a comparison add up ten times as fast as its booleans
    compare = torch.ge if above else torch.le
    return compare(x, bound, out=torch.empty_like(x)).sum().item()
