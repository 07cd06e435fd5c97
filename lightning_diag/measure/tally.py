"""Adds up the columns of one watched step, joins ranks, and copies to the host: once for all.

This is the only module that knows that ranks exist. Every rank joins on every watched step,
whatever it has seen, with a layout that all ranks have agreed on; what a rank has not seen it
leaves at the neutral element and marks as absent, and a place that any rank lacks is dropped. If
any rank has seen something new, all agree again and join the same columns once more. So ranks that
see different branches, one of which fails, or NaN on one of them, cannot hang (P6, P7).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_diag.measure.base import Columns, HostColumns
from lightning_diag.measure.moments import wide

T = TypeVar("T")

_KEPT_JOINS = 16
"""Our choice: joins for which a layout keeps what no rank has seen since; then it may be dropped,
lest tensors whose shapes change all the time make it grow."""
_LIST = 256
"""Our choice: from here on a tensor of zeros is built faster than a list and a tensor of that."""


def joining_ranks(world_size: int) -> int:
    """Return how many processes can join: all, or 1 where no process group stands.

    Example:
        >>> joining_ranks(4)
        1
    """
    stands = dist.is_available() and dist.is_initialized()
    return world_size if stands else 1


@contextmanager
def ranks_apart() -> Iterator[None]:
    """Hide the process group for a while, so that code that only some ranks run cannot hang.

    Within it there is one process, as before a group was made: batch norms that would join ranks
    do not, and a collective raises.
    """
    if not joining_ranks(2) > 1:
        yield
        return
    world = dist.GroupMember.WORLD
    dist.GroupMember.WORLD = None
    try:
        yield
    finally:
        dist.GroupMember.WORLD = world


def own_rank() -> tuple[int, int]:
    """Return which process this is and of how many, (0, 1) where no process group stands."""
    return (dist.get_rank(), dist.get_world_size()) if joining_ranks(2) > 1 else (0, 1)


def rows_of_all(rows: Tensor) -> Tensor:
    """Return the rows of all ranks, those of the first one first. Every rank must call this.

    Shape:
        ``(n, *)`` on the host, with n as each rank has it -> ``(sum of n, *)`` on the host.
    """
    ranks = own_rank()[1]
    if ranks == 1:
        return rows
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(ranks)]
    dist.all_gather(sizes, torch.tensor([len(rows)], device=device))
    counts = [int(size) for size in sizes]
    sent = rows.new_zeros((max(counts), *rows.shape[1:]), device=device)
    sent[: len(rows)] = rows.to(device)
    found = [torch.empty_like(sent) for _ in counts]
    dist.all_gather(found, sent)
    parts = [part[:count] for part, count in zip(found, counts, strict=True)]
    return torch.cat(parts).to(rows.device)


class Key(NamedTuple):
    """Names the columns of one measure at one or more places."""

    measure: str
    """Identifies the measure (two measures may share the first part of their metrics' names)."""
    places: tuple[str, ...]
    sums: int
    """Number of columns that join by sum."""
    maxima: int
    """Number of columns that join by max."""


class Own(NamedTuple):
    """What one rank joins in."""

    columns: dict[Key, Columns]
    scalars: dict[str, float]


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
        self._seen: dict[Key, int] = {}
        self._joins = 0

    def add(self, measure: str, places: tuple[str, ...], columns: Columns) -> None:
        """Add one observation: sums add to, and maxima exceed, those of earlier micro-batches."""
        key = Key(measure, places, *columns.widths)
        known = self._columns.get(key)
        self._columns[key] = columns if known is None else known.joined(columns)

    def drop(self) -> None:
        """Forget what was added since the last join."""
        self._columns.clear()

    def join(self, scalars: Mapping[str, float]) -> Pending:
        """Join ranks and start the copy to the host. Every rank must call this.

        Args:
            scalars: Numbers of this rank, of which the largest over ranks comes back.
        """
        columns, self._columns = self._columns, {}
        if self._ranks == 1:
            self._layout = list(columns)
        else:
            self._joins += 1
            self._seen.update(dict.fromkeys(columns, self._joins))
        return self._reduced(Own(columns, dict(scalars)))

    def rejoin(self, own: Own) -> Pending:
        """Agree on a layout that holds what is new to any rank, and join the same again."""
        self._agree()
        return self._reduced(own)

    def share(self, value: T) -> T:
        """Return what the first rank passes in. Every rank must call this."""
        if self._ranks == 1:
            return value
        values: list[T] = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def all_of(self, value: T) -> list[T]:
        """Return what each rank passes in. Every rank must call this."""
        if self._ranks == 1:
            return [value]
        values: list[Any] = [None] * self._ranks
        dist.all_gather_object(values, value)
        return values

    def any(self, flag: bool) -> bool:  # noqa: FBT001  # the one argument of a yes or no
        """Return whether any rank says yes. Every rank must call this."""
        if self._ranks == 1:
            return flag
        votes = torch.tensor(float(flag), device=self._device)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        return bool(votes > 0)

    def _agree(self) -> None:
        """Make the layout the union of what all ranks know, in the order of the lowest rank."""
        oldest = self._joins - _KEPT_JOINS
        self._seen = {key: join for key, join in self._seen.items() if join > oldest}
        gathered: list[list[Key] | None] = [None] * self._ranks
        dist.all_gather_object(gathered, list(self._seen))
        self._layout = list(dict.fromkeys(Key(*key) for keys in gathered for key in keys or ()))

    def _reduced(self, own: Own) -> Pending:
        unknown = not own.columns.keys() <= set(self._layout)
        sums, maxima = self._packed(own.columns, [*own.scalars.values(), float(unknown)])
        if self._ranks > 1:
            dist.all_reduce(sums, op=dist.ReduceOp.SUM)
            dist.all_reduce(maxima, op=dist.ReduceOp.MAX)
        return Pending(self, own, list(self._layout), sums, maxima)

    def _packed(
        self, columns: Mapping[Key, Columns], scalars: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        """Lay the columns out in the agreed order: presence and sums, scalars and maxima."""
        sums: list[Tensor | list[float]] = [[float(key in columns) for key in self._layout]]
        maxima: list[Tensor | list[float]] = [list(scalars)]
        lowest = torch.finfo(wide(self._device)).min
        for key in self._layout:
            known = columns.get(key)
            rows = len(key.places)
            if known is None:
                sums.append(self._nothing(rows * key.sums))
                maxima.append([lowest] * (rows * key.maxima))
            elif isinstance(known, HostColumns):
                sums += known.rows
                maxima += known.peaks
            else:
                sums.append(known.sums.flatten())
                maxima.append(known.maxima.flatten())
        return self._one(sums), self._one(maxima)

    def _nothing(self, size: int) -> Tensor | list[float]:
        """Return so many zeros: as a list, or where that is slower, on the device."""
        if size <= _LIST:
            return [0.0] * size
        return torch.zeros(size, dtype=wide(self._device), device=self._device)

    def _one(self, parts: Iterable[Tensor | list[float]]) -> Tensor:
        """Return all numbers as one tensor on the device; those of the host travel together."""
        tensors: list[Tensor] = []
        for kind, run in groupby(parts, key=type):
            if kind is list:
                numbers = list(chain.from_iterable(run))
                # the device is named, since users may have made another one the default
                host = torch.tensor(numbers, dtype=wide(self._device), device="cpu")
                tensors.append(self._moved(host))
            else:
                tensors += [self._moved(part) for part in run if isinstance(part, Tensor)]
        return torch.cat(tensors)

    def _moved(self, values: Tensor) -> Tensor:
        if values.device == self._device and values.dtype == wide(self._device):
            return values
        if values.device.type == "cpu" and self._device.type == "cuda":
            values = values.pin_memory()
        return values.to(self._device, wide(self._device), non_blocking=True)

    def unpacked(
        self, layout: Sequence[Key], names: Sequence[str], sums: Tensor, maxima: Tensor
    ) -> Joined | None:
        """Cut the joined columns up again; None if a rank had some that the layout lacks."""
        present: list[float] = sums[: len(layout)].tolist()
        *numbers, unknown = maxima[: len(names) + 1].tolist()
        if unknown > 0:
            return None
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
        return Joined(columns, dict(zip(names, numbers, strict=True)))


class Pending:
    """Joined columns on their way to the host."""

    def __init__(
        self, tally: Tally, own: Own, layout: list[Key], sums: Tensor, maxima: Tensor
    ) -> None:
        self._tally = tally
        self._own = own
        self._layout = layout
        self._size = sums.numel()
        joined = torch.cat([sums, maxima])
        self._event: Any = None
        if joined.device.type == "cuda":
            host = torch.empty(joined.shape, dtype=joined.dtype, device="cpu", pin_memory=True)
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
        """Return the numbers, waiting for the copy if it is still under way.

        Every rank must call this: where one of them has seen something new, all join again.
        """
        if self._event is not None:
            self._event.synchronize()
        sums, maxima = self._host[: self._size], self._host[self._size :]
        joined = self._tally.unpacked(self._layout, list(self._own.scalars), sums, maxima)
        return self._tally.rejoin(self._own).wait() if joined is None else joined
