"""Samples from all over a data set, each read by itself: few, in bounded time."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lightning_diag.checks.data import Unavailable, copies, leaves
from lightning_diag.checks.generators import still
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.twin import running, said
from lightning_diag.measure.data import leaves as tensors_of

Stage = Literal["train", "validation"]

ITEMS = 1024
"""Samples of each split that are read at most (our choice): shares are known to 2 % then."""
SECONDS = 1.0
"""How long reading samples of a split may take (our choice): a second each costs nobody's day."""
_WHOLE = 64
"""Samples that are kept whole, for batches (our choice); of the others only small parts are."""
_SMALL = 8
"""Elements up to which a part of a sample, such as its label, is kept (our choice)."""
_WIDE = 65_536
"""Elements of a part of a sample up to which its span is known (our choice)."""
_DRAWN = 100_000
"""Positions that are drawn from a sampler of unknown kind, at most (our choice)."""
_WHOLE_RANGE = (SequentialSampler, RandomSampler, WeightedRandomSampler, DistributedSampler)


class Span(NamedTuple):
    """What the elements of a part of samples span; there is one where all had the same shape."""

    low: Tensor
    """The smallest value of each element."""
    high: Tensor
    broken: int
    """Samples with values that are NaN or infinite; they are left out of the others."""
    samples: int

    def with_sample(self, x: Tensor) -> Span:
        """Return the span with one sample more."""
        if not bool(torch.isfinite(x).all()):
            return self._replace(broken=self.broken + 1, samples=self.samples + 1)
        if x.shape != self.low.shape:
            return self
        low, high = torch.minimum(self.low, x), torch.maximum(self.high, x)
        return Span(low, high, self.broken, self.samples + 1)

    @classmethod
    def empty(cls, like: Tensor) -> Span:
        """Return the span of no sample."""
        return cls(torch.full_like(like, math.inf), torch.full_like(like, -math.inf), 0, 0)


@dataclass(frozen=True)
class Items:
    """Samples of one split, spread over all of it."""

    loader: Any
    """A copy of the user's, to be iterated by nobody else."""
    population: Sequence[int]
    """The positions that an epoch draws from."""
    positions: tuple[int, ...]
    """Those that were read."""
    small: tuple[dict[str, Tensor], ...]
    """Of each sample that was read: the parts of a few numbers, by their name in a batch."""
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
        size = max(1, int(getattr(self.loader, "batch_size", None) or 32))
        chosen = self.whole[: max(samples, 1)]
        parts = [chosen[i : i + size] for i in range(0, len(chosen), size)]
        # The last one may hold a single sample, of which a norm takes no statistics.
        parts = [part for part in parts if len(part) > 1] or parts
        with running(), said("the samples could not be put into a batch"):
            return [self.loader.collate_fn(list(part)) for part in parts]


def the_loader(subject: Subject, stage: Stage) -> Any:
    """Return the user's loader of a split, the first one of validation: to look at only.

    Raises:
        Unavailable: If there is none, or several train together.
    """
    found = list(leaves(subject.loaders if stage == "train" else subject.validation))
    if not found or found[0] is None:
        raise Unavailable(f"there are no {_NAMES[stage]} data")
    if stage == "train" and len(found) > 1:
        raise Unavailable("several loaders train together")
    return found[0]


_NAMES = {"train": "training", "validation": "validation"}


def map_loader(subject: Subject, stage: Stage) -> Any:
    """Return a copy of a split's loader, whose samples can be had by their positions.

    Raises:
        Unavailable: If there is no such loader.
    """
    loader = the_loader(subject, stage)
    name = _NAMES[stage]
    if not isinstance(loader, DataLoader):
        raise Unavailable(f"the {name} data ({type(loader).__name__}) come from no `DataLoader`")
    dataset = loader.dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        kind = type(dataset).__name__
        raise Unavailable(f"the {name} data ({kind}) can only be iterated from their start")
    if loader.batch_sampler is None:
        raise Unavailable(f"the {name} data come in batches that the data set makes")
    own = copies(loader)
    if own is loader:
        raise Unavailable(f"the loader of the {name} data cannot be copied")
    return own


def population(loader: Any) -> Sequence[int]:
    """Return the positions that an epoch of a copied loader draws from, in no order that matters.

    Example:
        >>> list(population(DataLoader([5, 6, 7], sampler=SubsetRandomSampler([0, 2]))))
        [0, 2]
    """
    sampler = loader.sampler
    if type(loader.batch_sampler) is BatchSampler:
        if isinstance(sampler, SubsetRandomSampler):
            return [int(index) for index in sampler.indices]
        if type(sampler) in _WHOLE_RANGE:
            return range(len(loader.dataset))
    with running(), said("the sampler failed"):
        return sorted(set(order(loader, _DRAWN)))


def order(loader: Any, most: int) -> list[int]:
    """Return the first positions that a copied loader draws, in their order.

    Raises:
        Unavailable: If what is drawn are no positions.
    """
    drawn: list[int] = []
    with running(), said("the sampler failed"):
        for batch in loader.batch_sampler:
            drawn += [int(index) for index in islice(batch, most - len(drawn))]
            if len(drawn) >= most:
                break
    return drawn


_READ: WeakKeyDictionary[Subject, dict[str, Items | Unavailable]] = WeakKeyDictionary()


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
            known[stage] = why
    found = known[stage]
    if isinstance(found, Unavailable):
        raise Unavailable(str(found))
    return found


def _read(subject: Subject, stage: Stage) -> Items:
    loader = map_loader(subject, stage)
    chosen = population(loader)
    end = time.monotonic() + min(SECONDS, max(0.0, subject.time_left))
    positions: list[int] = []
    small: list[dict[str, Tensor]] = []
    whole: list[Any] = []
    spans: dict[str, Span] = {}
    with still(loader.dataset), running(), said("a sample could not be read"):
        for position in spread(chosen, ITEMS):
            sample = loader.dataset[position]
            if len(whole) < _WHOLE:
                whole.append(sample)
            parts = tensors_of(loader.collate_fn([sample]))
            small.append({name: x.clone() for name, x in parts if x.numel() <= _SMALL})
            for name, x in parts:
                if x.is_floating_point() and 0 < x.numel() <= _WIDE:
                    spans[name] = spans.get(name, Span.empty(x)).with_sample(x)
            positions.append(position)
            if time.monotonic() > end:
                break
    if not positions:
        raise Unavailable(f"the {_NAMES[stage]} data hold no sample")
    return Items(loader, chosen, tuple(positions), tuple(small), tuple(whole), spans)


def spread(chosen: Sequence[int], most: int) -> list[int]:
    """Return some of the positions, drawn at random, the same ones each time.

    Example:
        >>> sorted(spread(range(3), 10))
        [0, 1, 2]
    """
    generator = torch.Generator().manual_seed(0)
    if len(chosen) > 50 * most:
        # No permutation of millions; the few that come twice are dropped.
        drawn = torch.randint(len(chosen), (most,), generator=generator).tolist()
    else:
        drawn = torch.randperm(len(chosen), generator=generator)[:most].tolist()
    return [int(chosen[index]) for index in dict.fromkeys(drawn)]
