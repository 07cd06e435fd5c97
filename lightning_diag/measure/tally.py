"""Adds up the columns of one watched step, joins ranks, and copies to the host: once for all.

This is the only module that knows that ranks exist. Every rank joins on every watched step,
whatever it has seen, with a layout that all ranks have agreed on; what a rank has not seen it
leaves at the neutral element and marks as absent, and a place that any rank lacks is dropped. So
ranks that see different branches, one of which fails, or NaN on one of them, cannot hang (P6, P7).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_diag.measure.base import Columns
from lightning_diag.measure.moments import wide

T = TypeVar("T")


class Key(NamedTuple):
    """Names the columns of one measure at one or more places."""

    measure: str
    """Identifies the measure (two measures may share the first part of their metrics' names)."""
    places: tuple[str, ...]
    sums: int
    """Number of columns that join by sum."""
    maxima: int
    """Number of columns that join by max."""


@dataclass
class Joined:
    """Columns of all ranks on the host, by key; keys that a rank lacked are absent."""

    columns: dict[Key, Columns]
    scalars: dict[str, float]
    """Largest value over ranks of each number that went in beside the columns."""


class Tally:
    """Accumulates columns over the micro-batches of a step and joins them.

    Args:
        ranks: Number of processes that join; 1 joins nothing.
        device: Where the collectives run and the columns are gathered.

    Example:
        >>> tally = Tally(1, torch.device("cpu"))
        >>> tally.add("count", ("a",), Columns(torch.ones(1, 1), torch.zeros(1, 0)))
        >>> tally.add("count", ("a",), Columns(torch.ones(1, 1), torch.zeros(1, 0)))
        >>> pending = tally.join({"seconds": 2.0})
        >>> [columns.sums.item() for columns in pending.wait().columns.values()]
        [2.0]
    """

    def __init__(self, ranks: int, device: torch.device) -> None:
        self._ranks = ranks
        self._device = device
        self._columns: dict[Key, Columns] = {}
        self._layout: list[Key] = []
        self._known: set[Key] = set()
        self._must_agree = ranks > 1

    def add(self, measure: str, places: tuple[str, ...], columns: Columns) -> None:
        """Add one observation: sums add to, and maxima exceed, those of earlier micro-batches."""
        key = Key(measure, places, columns.sums.shape[1], columns.maxima.shape[1])
        known = self._columns.get(key)
        if known is not None:
            columns = Columns(
                known.sums + columns.sums, torch.maximum(known.maxima, columns.maxima)
            )
        self._columns[key] = columns

    def drop(self) -> None:
        """Forget what was added since the last join."""
        self._columns.clear()

    def join(self, scalars: Mapping[str, float]) -> Pending:
        """Join ranks and start the copy to the host. Every rank must call this.

        Args:
            scalars: Numbers of this rank, of which the largest over ranks comes back.
        """
        if self._ranks == 1:
            self._layout = list(self._columns)
        elif self._must_agree:
            self._agree()
        unknown = any(key not in self._known for key in self._columns) if self._ranks > 1 else False
        sums, maxima = self._packed([*scalars.values(), float(unknown)])
        self._columns.clear()
        if self._ranks > 1:
            dist.all_reduce(sums, op=dist.ReduceOp.SUM)
            dist.all_reduce(maxima, op=dist.ReduceOp.MAX)
        return Pending(self, list(self._layout), list(scalars), sums, maxima)

    def share(self, value: T) -> T:
        """Return what the first rank passes in. Every rank must call this."""
        if self._ranks == 1:
            return value
        values: list[T] = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def _agree(self) -> None:
        """Make the layout the union of what all ranks know, in the order of the lowest rank."""
        own = [*self._layout, *(key for key in self._columns if key not in self._known)]
        gathered: list[list[Key] | None] = [None] * self._ranks
        dist.all_gather_object(gathered, own)
        union = dict.fromkeys(Key(*key) for keys in gathered for key in keys or ())
        self._layout = list(union)
        self._known = set(union)
        self._must_agree = False

    def _packed(self, scalars: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Lay the columns out in the agreed order: presence and sums, scalars and maxima."""
        dtype = wide(self._device)
        present = [float(key in self._columns) for key in self._layout]
        sums = [torch.tensor(present, dtype=dtype)]
        maxima = [torch.tensor(list(scalars), dtype=dtype)]
        sums[0], maxima[0] = self._moved(sums[0]), self._moved(maxima[0])
        for key in self._layout:
            columns = self._columns.get(key)
            rows = len(key.places)
            if columns is None:
                sums.append(torch.zeros(rows * key.sums, dtype=dtype, device=self._device))
                lowest = torch.finfo(dtype).min
                maxima.append(
                    torch.full((rows * key.maxima,), lowest, dtype=dtype, device=self._device)
                )
            else:
                sums.append(self._moved(columns.sums.flatten()))
                maxima.append(self._moved(columns.maxima.flatten()))
        return torch.cat(sums), torch.cat(maxima)

    def _moved(self, values: Tensor) -> Tensor:
        if values.device == self._device and values.dtype == wide(self._device):
            return values
        if values.device.type == "cpu" and self._device.type == "cuda":
            values = values.pin_memory()
        return values.to(self._device, wide(self._device), non_blocking=True)

    def unpacked(
        self, layout: Sequence[Key], names: Sequence[str], sums: Tensor, maxima: Tensor
    ) -> Joined:
        """Cut the joined columns up again; remember whether the ranks must agree anew."""
        present = sums[: len(layout)]
        numbers = maxima[: len(names) + 1].tolist()
        self._must_agree = self._ranks > 1 and numbers[-1] > 0
        at_sum, at_max = len(layout), len(names) + 1
        columns: dict[Key, Columns] = {}
        for i, key in enumerate(layout):
            rows = len(key.places)
            next_sum, next_max = at_sum + rows * key.sums, at_max + rows * key.maxima
            if present[i] == self._ranks:
                columns[key] = Columns(
                    sums[at_sum:next_sum].view(rows, key.sums),
                    maxima[at_max:next_max].view(rows, key.maxima),
                )
            at_sum, at_max = next_sum, next_max
        return Joined(columns, dict(zip(names, numbers[:-1], strict=True)))


class Pending:
    """Joined columns on their way to the host."""

    def __init__(
        self, tally: Tally, layout: list[Key], names: list[str], sums: Tensor, maxima: Tensor
    ) -> None:
        self._tally = tally
        self._layout = layout
        self._names = names
        self._size = sums.numel()
        joined = torch.cat([sums, maxima])
        self._event: Any = None
        if joined.device.type == "cuda":
            host = torch.empty(joined.shape, dtype=joined.dtype, pin_memory=True)
            self._host = host.copy_(joined, non_blocking=True)
            event: Any = torch.cuda.Event
            self._event = event()
            self._event.record()
        else:
            self._host = joined.cpu()

    @property
    def asynchronous(self) -> bool:
        """Whether the copy may still be under way."""
        return self._event is not None

    def wait(self) -> Joined:
        """Return the numbers, waiting for the copy if it is still under way."""
        if self._event is not None:
            self._event.synchronize()
        sums, maxima = self._host[: self._size], self._host[self._size :]
        return self._tally.unpacked(self._layout, self._names, sums, maxima)
