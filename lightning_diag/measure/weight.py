"""Weights before a step: their mean, size and largest value, and units that are copies (C5, C6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lightning_diag.measure.base import Columns, Measure, Numbers, placed
from lightning_diag.measure.moments import Scalar, largest, moments, plain
from lightning_diag.measure.shards import local_part

_ALIKE = 1e-5
"""How far apart copies may be, against their size. Our choice: a hundred times what the order of
additions does in float32; two units among 50,000 come so close by chance once in forty layers."""


class WeightMeasure(Measure):
    """Mean, standard deviation and largest absolute value of each weight.

    Example:
        >>> measure = WeightMeasure()
        >>> columns = measure.observe([torch.tensor([[3.0, -1.0]])])
        >>> measure.summarise(["w"], columns.sums, columns.maxima)["max"]
        {'w': 3.0}
    """

    name: ClassVar[str] = "weight"
    outputs: ClassVar[dict[str, str]] = {
        "mean": "mean of the weights before the step",
        "std": "standard deviation of the weights before the step; 0 or more",
        "max": "largest absolute value of the weights before the step; 0 or more",
    }

    def observe(self, weights: Sequence[Tensor]) -> Columns:
        """Reduce one weight a row.

        Shape:
            n tensors of any shape -> sums ``(n, 3)``, maxima ``(n, 1)``.
        """
        local = [plain(local_part(weight)[0]) for weight in weights]
        found = [moments(weight) for weight in local]
        sums = [(m.count, m.total, m.squares) for m in found]
        return Columns.of(local[0].device, sums, [(largest(weight),) for weight in local])

    def summarise(self, places: Sequence[str], sums: Tensor, maxima: Tensor) -> Numbers:
        """See `Measure.summarise`."""
        count, total, squares = sums.unbind(1)
        filled = count > 0
        safe = count.clamp(min=1)
        mean = total / safe
        variance = (squares / safe - mean.square()).clamp(min=0)
        # below this, what is left of the squares is rounding
        variance = variance.where(variance > 1e-14 * squares / safe, torch.zeros_like(variance))
        return {
            "mean": placed(places, mean, filled),
            "std": placed(places, variance.sqrt(), filled),
            "max": placed(places, maxima[:, 0], filled),
        }


class DuplicateMeasure(Measure):
    """Share of the units of a layer whose weights are copies of another one's.

    A unit is a row of the weight: what leads to one output or channel. Two units are copies if two
    fixed projections of them agree to five digits of their size.

    Example:
        >>> measure = DuplicateMeasure()
        >>> columns = measure.observe([torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 1.0], [3, 1]])])
        >>> measure.summarise(["w"], columns.sums, columns.maxima)["duplicate_fraction"]
        {'w': 0.5}
    """

    name: ClassVar[str] = "weight"
    outputs: ClassVar[dict[str, str]] = {
        "duplicate_fraction": "share of the units that equal another one of the layer, 0 to 1"
    }

    def observe(self, tensors: Sequence[Tensor]) -> Columns:
        """Count the copies in each tensor, the units that could be copies, and all units.

        Shape:
            n tensors ``(units, *)`` -> sums ``(n, 3)``, maxima ``(n, 0)``.
        """
        local = [plain(local_part(x)[0]) for x in tensors]
        rows = [self._counts(x) for x in local]
        return Columns.of(local[0].device, rows)

    def _counts(self, x: Tensor) -> tuple[Scalar, Scalar, Scalar]:
        units = float(x.shape[0]) if x.dim() > 1 else 0.0
        if units < 2 or x.numel() == 0:
            return 0.0, 0.0, 0.0
        is_copy, size = copies(x)
        able = self.able(size)
        return _counted(is_copy & able), _counted(able), units

    def able(self, size: Tensor) -> Tensor:
        """Return which units count, from their sizes."""
        return torch.ones_like(size, dtype=torch.bool)

    def summarise(self, places: Sequence[str], sums: Tensor, maxima: Tensor) -> Numbers:
        """See `Measure.summarise`."""
        alike, able, units = sums.unbind(1)
        share = (alike / able.clamp(min=1)).where(able > 0, torch.ones_like(alike))
        return {"duplicate_fraction": placed(places, share, units > 0)}


class GradientDuplicateMeasure(DuplicateMeasure):
    """Share of the units of a layer whose gradient is that of another one.

    Units without any gradient, such as silent ones, count only where all are without.
    """

    name: ClassVar[str] = "gradient"
    outputs: ClassVar[dict[str, str]] = {
        "duplicate_fraction": "share of the units with a gradient that get that of another one, "
        "0 to 1; 1 where no unit has any"
    }

    def able(self, size: Tensor) -> Tensor:
        """See `DuplicateMeasure.able`."""
        return size != 0


def _counted(flags: Tensor) -> Scalar:
    count = flags.sum()
    return float(count) if count.device.type == "cpu" else count


def copies(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return which units of `x` equal another one, and the size of each.

    Shape:
        ``(units, *)`` -> ``(units,)`` of flags and ``(units,)`` of L2 norms.

    Example:
        >>> copies(torch.tensor([[1.0, 2.0], [0.0, 1.0], [1.0, 2.0]]))[0]
        tensor([ True, False,  True])
    """
    units = x.flatten(1)
    size = torch.linalg.vector_norm(units, dim=1)
    shadow = projections(units)
    order = shadow[:, 0].argsort()
    shadow, limit = shadow[order], _ALIKE * size[order]
    near = ((shadow[1:] - shadow[:-1]).abs() <= limit[1:, None]).all(dim=1)
    sides = torch.nn.functional.pad(near.to(torch.uint8), (1, 1)).bool()
    is_copy = torch.zeros_like(sides[1:])
    is_copy[order] = sides[1:] | sides[:-1]
    return is_copy, size


def projections(units: Tensor) -> Tensor:
    """Project each row on two directions that are always the same, and look random.

    Shape:
        ``(units, inputs)`` -> ``(units, 2)``.
    """
    steps = torch.arange(1, units.shape[1] + 1, dtype=torch.float64, device="cpu")
    angles = torch.stack([steps * steps * 0.6180339887, steps * steps * 0.7548776662 + 1.0], dim=1)
    directions = torch.cos(2 * torch.pi * angles.remainder(1.0))
    return units @ directions.to(units.device, units.dtype, non_blocking=True)
