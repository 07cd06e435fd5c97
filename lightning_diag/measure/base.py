"""What a measure is: tensors in, columns that add up out, and numbers from the columns.

`observe` reduces tensors to *columns*, each of which joins by sum or by max: over micro-batches,
and over ranks. Joined columns of replicas therefore cancel, and those of split batches pool.
`summarise` turns joined columns into the numbers that people read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lightning_diag.measure.moments import MomentsCache, wide

Numbers = dict[str, dict[str, float]]
"""Output to place to number."""


@dataclass
class Columns:
    """What one observation adds to a tally.

    Shape:
        `sums`, joined by sum, and `maxima`, joined by max: ``(places, columns)`` each, with no
        columns where nothing joins that way.
    """

    sums: Tensor
    maxima: Tensor

    @classmethod
    def of(
        cls,
        device: torch.device,
        sums: Sequence[Tensor | float],
        maxima: Sequence[Tensor | float] = (),
    ) -> Columns:
        """Build the columns of one place from scalars, without waiting for the device."""
        return cls(row(sums, device), row(maxima, device))


def row(values: Sequence[Tensor | float], device: torch.device) -> Tensor:
    """Stack scalars to one row, ``(1, len(values))``, in the widest type of `device`."""
    dtype = wide(device)
    if device.type == "cpu" or not any(isinstance(value, Tensor) for value in values):
        return torch.tensor([[float(value) for value in values]], dtype=dtype, device=device)
    tensors = [
        value.to(dtype)
        if isinstance(value, Tensor)
        else torch.full((), value, dtype=dtype, device=device)
        for value in values
    ]
    return torch.stack(tensors).unsqueeze(0)


@dataclass
class Call:
    """One call of a function or layer that a forward pass made.

    `output` is None until the call has returned.
    """

    place: str
    """Module path, function and index, such as ``net.1/relu#0``."""
    function: str
    """The function's name."""
    kind: str
    """What it does: relu, leaky, sigmoid, tanh, hard, softmax, smooth or layer."""
    unit_dim: int
    """The dimension that counts units or channels."""
    input: Tensor
    output: Tensor | None = None
    cache: MomentsCache = field(default_factory=MomentsCache)
    """Moments of the tensors of this forward pass."""


class Measure(ABC):
    """A quantity: its name, its columns and how numbers come out of them.

    A measure holds no state: what it needs to remember between steps belongs to its monitor.
    """

    name: ClassVar[str]
    """First part of its metrics' names."""
    outputs: ClassVar[dict[str, str]]
    """Output to its meaning, unit and range."""

    @abstractmethod
    def summarise(self, places: Sequence[str], sums: Tensor, maxima: Tensor) -> Numbers:
        """Turn joined columns into numbers.

        Args:
            places: Names of the rows.
            sums: ``(places, columns)`` on the CPU.
            maxima: ``(places, columns)`` on the CPU.
        """


class CallMeasure(Measure):
    """A measure of a function's call. It sees the input before the call, the output after."""

    kinds: ClassVar[frozenset[str]]
    """The kinds of function that it looks at."""

    def before(self, call: Call) -> Columns | None:
        """Look at the input, which an in-place function is about to overwrite."""
        return None

    def after(self, call: Call) -> Columns | None:
        """Look at input and output. An in-place function's input is its output by now."""
        return None


def placed(places: Sequence[str], values: Tensor, where: Tensor | None = None) -> dict[str, float]:
    """Pair places with values, leaving out the rows for which `where` is false.

    Example:
        >>> placed(["a", "b"], torch.tensor([1.0, 2.0]), torch.tensor([True, False]))
        {'a': 1.0}
    """
    kept = [True] * len(places) if where is None else where.tolist()
    return {
        place: value
        for place, value, keep in zip(places, values.tolist(), kept, strict=True)
        if keep
    }
