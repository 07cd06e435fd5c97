"""What a measure is: tensors in, columns that add up out, and numbers from the columns.

`observe` reduces tensors to *columns*, each of which joins by sum or by max: over micro-batches,
and over ranks. Joined columns of replicas therefore cancel, and those of split batches pool.
`summarise` turns joined columns into the numbers that people read.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from lightning_diag.measure.moments import MomentsCache, Scalar, wide

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
        sums: Sequence[Sequence[Scalar]],
        maxima: Sequence[Sequence[Scalar]] | None = None,
    ) -> Columns:
        """Build columns from a row of scalars for each place, without waiting for the device."""
        maxima = maxima or [()] * len(sums)
        if device.type != "cpu" and any(
            isinstance(value, Tensor) for row in (*sums, *maxima) for value in row
        ):
            return cls(table(sums, device), table(maxima, device))
        return HostColumns([[*map(float, row)] for row in sums], [[*map(float, r)] for r in maxima])

    @property
    def widths(self) -> tuple[int, int]:
        """Number of columns that join by sum, and of those that join by max."""
        return self.sums.shape[1], self.maxima.shape[1]

    def joined(self, other: Columns) -> Columns:
        """Return these columns and those of another observation of the same places."""
        device = self.sums.device  # the other's may be the host, where it had nothing to look at
        return Columns(
            self.sums + other.sums.to(device), torch.maximum(self.maxima, other.maxima.to(device))
        )


class HostColumns(Columns):
    """Columns whose numbers are on the host: floats, since one tensor for all of them is cheaper.

    Example:
        >>> one, two = HostColumns([[1.0]], [[5.0]]), HostColumns([[2.0]], [[math.nan]])
        >>> one.joined(two).rows, one.joined(two).peaks
        ([[3.0]], [[nan]])
    """

    def __init__(self, rows: list[list[float]], peaks: list[list[float]]) -> None:
        self.rows = rows
        self.peaks = peaks

    @cached_property
    def sums(self) -> Tensor:  # type: ignore[override]  # made when first asked for
        """See `Columns`."""
        return table(self.rows, torch.device("cpu"))

    @cached_property
    def maxima(self) -> Tensor:  # type: ignore[override]
        """See `Columns`."""
        return table(self.peaks, torch.device("cpu"))

    @property
    def widths(self) -> tuple[int, int]:
        """See `Columns.widths`."""
        return len(self.rows[0]), len(self.peaks[0])

    def joined(self, other: Columns) -> Columns:
        """See `Columns.joined`."""
        if not isinstance(other, HostColumns):
            return other.joined(self)
        pairs = zip(self.rows, other.rows, strict=True)
        rows = [[a + b for a, b in zip(*pair, strict=True)] for pair in pairs]
        pairs = zip(self.peaks, other.peaks, strict=True)
        # NaN stays, as in torch.maximum
        peaks = [
            [a if a >= b or math.isnan(a) else b for a, b in zip(*p, strict=True)] for p in pairs
        ]
        return HostColumns(rows, peaks)


def table(rows: Sequence[Sequence[Scalar]], device: torch.device) -> Tensor:
    """Stack scalars to ``(rows, columns)`` in the widest type of `device`, without waiting for it.

    Example:
        >>> table([[1.0, 2.0], [3.0, 4.0]], torch.device("cpu")).shape
        torch.Size([2, 2])
    """
    dtype = wide(device)
    if not any(isinstance(value, Tensor) for row in rows for value in row):
        floats = [[float(value) for value in row] for row in rows]
        numbers = torch.tensor(floats, dtype=dtype, device="cpu")
        return numbers.view(len(rows), -1).to(device, non_blocking=True)
    columns = [_column(column, device) for column in zip(*rows, strict=True)]
    return torch.stack(columns, dim=1)


def _column(values: Sequence[Scalar], device: torch.device) -> Tensor:
    dtype = wide(device)
    known = [value for value in values if isinstance(value, Tensor)]
    if not known:
        return torch.tensor(values, dtype=dtype, device="cpu").to(device, non_blocking=True)
    tensors = [
        value.to(device)
        if isinstance(value, Tensor)
        else torch.full((), value, dtype=known[0].dtype, device=device)
        for value in values
    ]
    return torch.stack(tensors).to(dtype)


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
    """What it does: relu, leaky, sigmoid, tanh, hard, softmax, smooth, layer or loss."""
    unit_dim: int
    """The dimension that counts units or channels."""
    input: Tensor
    output: Tensor | None = None
    cache: MomentsCache = field(default_factory=MomentsCache)
    """Moments of the tensors of this forward pass."""


@dataclass
class LossCall(Call):
    """One call of a loss function: `input` is the prediction, `output` what the call returned."""

    target: Tensor = field(default_factory=lambda: torch.empty(0))
    reduction: str = "mean"
    """mean, sum, none or batchmean."""
    weighted: bool = False
    """Whether classes or elements were given weights."""
    ignore_index: int | None = None
    """The target that is left out, for losses that know such."""
    scale: float = 1.0
    """Error from which on a Huber loss is linear."""
    activation: str = ""
    """The function that the prediction came out of, such as ``softmax``; empty if it is another
    one, or not known."""


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


def always() -> bool:
    """Return true: what measures look at that are always due."""
    return True


class CallMeasure(Measure):
    """A measure of a function's call. It sees the input before the call, the output after.

    Args:
        due: Whether to look at the forward pass that begins; always by default.
    """

    kinds: ClassVar[frozenset[str]]
    """The kinds of function that it looks at."""

    _due: Callable[[], bool] = staticmethod(always)

    def __init__(self, due: Callable[[], bool] = always) -> None:
        self._due = due

    def is_due(self) -> bool:
        """Return whether to look at the forward pass that begins; asked once for each."""
        return self._due()

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
