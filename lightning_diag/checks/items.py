"""Samples from all over a data set, each read by itself: few, in bounded time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lightning_diag.checks.data import Unavailable, clone
from lightning_diag.checks.generators import still
from lightning_diag.checks.positions import (
    STAGES,
    Stage,
    batch_size,
    map_loader,
    population,
    spread,
)
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.twin import running, said
from lightning_diag.measure.data import leaves as tensors_of

ITEMS = 1024
"""Samples of each split that are read at most (our choice): shares are known to 2 % then."""
SECONDS = 1.0
"""How long reading samples of a split may take (our choice): a second each costs nobody's day."""
_WHOLE = 64
"""Samples that are kept whole, for batches (our choice); of the others only small parts are."""
_FEW = 32
"""Samples from all over the data that must be had in time; else the first batches are taken."""
_SIZE = 32
"""Samples of a batch where the loader does not say how many (our choice)."""
_BYTES = 256e6
"""Bytes of samples that are kept whole, and that are collated together (our choice)."""
_SMALL = 8
"""Elements up to which a part of a sample, such as its label, is kept (our choice)."""
_WIDE = 65_536
"""Elements of a part of a sample up to which its span is known (our choice)."""


class Span(NamedTuple):
    """What the elements of a part of samples span, over those samples of it that are finite."""

    low: Tensor
    """The smallest value of each element."""
    high: Tensor
    broken: int
    """Samples with values that are NaN or infinite; they are left out of the others."""
    samples: int

    def joined(self, other: Span) -> Span:
        """Return the span of both; the other's elements are left out where they are not as many."""
        broken, samples = self.broken + other.broken, self.samples + other.samples
        if self.low.shape != other.low.shape:
            return Span(self.low, self.high, broken, samples)
        low, high = torch.minimum(self.low, other.low), torch.maximum(self.high, other.high)
        return Span(low, high, broken, samples)


def span_of(x: Tensor) -> Span:
    """Return what samples span.

    Shape:
        ``(samples, *)``

    Example:
        >>> span_of(torch.tensor([[1.0, 2.0], [3.0, 2.0], [math.nan, 0.0]]))
        Span(low=tensor([1., 2.]), high=tensor([3., 2.]), broken=1, samples=3)
    """
    finite = torch.isfinite(x).flatten(1).all(1)
    known = x[finite]
    if not len(known):
        low = torch.full_like(x[0], math.inf)
        return Span(low, -low, len(x), len(x))
    return Span(known.amin(0), known.amax(0), len(x) - len(known), len(x))


@dataclass(frozen=True)
class Items:
    """Samples of one split, spread over all of it."""

    loader: Any
    """A copy of the user's, to be iterated by nobody else."""
    population: Sequence[int]
    """The positions that an epoch draws from."""
    positions: tuple[int, ...]
    """Those that were read."""
    small: dict[str, Tensor]
    """The parts of a few numbers, by their name in a batch: ``(samples read, numbers)``."""
    whole: tuple[Any, ...]
    """The first of the samples, as the data set gave them."""
    spans: dict[str, Span]
    """Of each part that is numbers: what its elements span over all samples that were read."""

    @property
    def is_all(self) -> bool:
        """Whether every sample was read."""
        return len(self.positions) == len(self.population)

    def batches(self, samples: int) -> list[Any]:
        """Return batches of the loader's size, of samples from all over the data set.

        Args:
            samples: How many are wanted in all; there may be fewer.
        """
        size = batch_size(self.loader) or _SIZE
        chosen = self.whole[: max(samples, 1)]
        parts = [chosen[i : i + size] for i in range(0, len(chosen), size)]
        # The last one may hold a single sample, of which a norm takes no statistics.
        parts = [part for part in parts if len(part) > 1] or parts
        with running(), said("the samples could not be put into a batch"):
            return [self.loader.collate_fn(list(part)) for part in parts]


_READ: WeakKeyDictionary[Subject, dict[str, Items | str]] = WeakKeyDictionary()
"""Or why there are none: an exception would keep the subject alive."""


def items(subject: Subject, stage: Stage) -> Items:
    """Return samples from all over a split; they are read once for each subject.

    Raises:
        Unavailable: If they cannot be had by their positions.
    """
    known = _READ.setdefault(subject, {})
    if stage not in known:
        try:
            known[stage] = _read(subject, stage)
        except Unavailable as why:
            known[stage] = str(why)
    found = known[stage]
    if isinstance(found, str):
        raise Unavailable(found)
    return found


def _read(subject: Subject, stage: Stage) -> Items:
    loader = map_loader(subject, stage)
    chosen = population(loader)
    end = time.monotonic() + min(SECONDS, max(0.0, subject.time_left))
    reader = _Reader(loader.collate_fn)
    positions: list[int] = []
    with still(loader.dataset), running(), said("a sample could not be read"):
        for position in spread(chosen, ITEMS):
            reader.take(loader.dataset[position])
            positions.append(position)
            if time.monotonic() > end:
                break
        reader.collate()
    if not positions:
        raise Unavailable(f"the {STAGES[stage]} data hold no sample")
    whole = tuple(reader.whole)
    return Items(loader, chosen, tuple(positions), reader.small(), whole, reader.spans)


class _Reader:
    """Takes samples, and keeps what is wanted of them.

    Args:
        collate: Makes a batch of samples.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.whole: list[Any] = []
        self.spans: dict[str, Span] = {}
        self._collate = collate
        self._parts: dict[str, list[Tensor]] = {}
        self._waiting: list[Any] = []
        self._taken = self._bytes = self._size = 0

    def take(self, sample: Any) -> None:
        """Take one; what stands in memory is bounded."""
        if self._taken % _WHOLE == 0:
            self._size = sum(x.numel() * x.element_size() for _, x in tensors_of(sample))
        self._taken += 1
        if len(self.whole) < _WHOLE and self._bytes + self._size <= _BYTES:
            self.whole.append(sample)
            self._bytes += self._size
        self._waiting.append(sample)
        if len(self._waiting) >= _WHOLE or len(self._waiting) * self._size > _BYTES:
            self.collate()

    def collate(self) -> None:
        """Put what waits into a batch, and read it."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            try:
                batches = [self._collate(waiting)]
            except Exception:  # noqa: BLE001  # of unlike sizes: then each for itself
                batches = [self._collate([sample]) for sample in waiting]
            for batch in batches:
                self._note(batch, len(waiting) // len(batches))

    def _note(self, batch: Any, samples: int) -> None:
        for name, x in tensors_of(batch):
            if not x.dim() or len(x) != samples or not x.numel() or x.layout is not torch.strided:
                continue
            size = x.numel() // samples
            if size <= _SMALL:
                self._parts.setdefault(name, []).append(x.detach().reshape(samples, size).clone())
            if x.is_floating_point() and size <= _WIDE:
                span = span_of(x.detach())
                known = self.spans.get(name)
                self.spans[name] = span if known is None else known.joined(span)

    def small(self) -> dict[str, Tensor]:
        """Return the parts that each sample has, as many numbers each time."""
        alike = {
            name: parts
            for name, parts in self._parts.items()
            if sum(map(len, parts)) == self._taken and len({x.shape[1] for x in parts}) == 1
        }
        return {name: torch.cat(parts) for name, parts in alike.items()}


def training_batches(subject: Subject, samples: int) -> tuple[list[Any], bool]:
    """Return batches of samples from all over the data; else the first ones, and that it is so."""
    try:
        read = items(subject, "train")
        if read.is_all or len(read.whole) >= _FEW:
            return [clone(batch) for batch in read.batches(samples)], True
    except Unavailable:
        pass
    return list(subject.batches), False
