"""Where the samples of a loader stand in its data, and in which order they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, Literal

import torch
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
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.twin import running, said

Stage = Literal["train", "validation"]
STAGES: dict[Stage, str] = {"train": "training", "validation": "validation"}
"""What the splits are called."""

_DRAWN = 100_000
"""Positions that are drawn from a sampler of unknown kind, at most (our choice)."""
_WHOLE_RANGE = (SequentialSampler, RandomSampler, WeightedRandomSampler, DistributedSampler)


def batch_size(loader: Any) -> int:
    """Return how many samples a batch of a loader holds; 0 where that is not known.

    Example:
        >>> batch_size(DataLoader([1, 2, 3], batch_size=2))
        2
    """
    size = getattr(loader.batch_sampler, "batch_size", None)
    return size if isinstance(size, int) and size > 0 else 0


def the_loader(subject: Subject, stage: Stage) -> Any:
    """Return the user's loader of a split, the first one of validation: to look at only.

    Raises:
        Unavailable: If there is none, or several train together.
    """
    found = list(leaves(subject.loaders if stage == "train" else subject.validation))
    if not found or found[0] is None:
        raise Unavailable(f"there are no {STAGES[stage]} data")
    if stage == "train" and len(found) > 1:
        raise Unavailable("several loaders train together")
    return found[0]


def map_loader(subject: Subject, stage: Stage) -> Any:
    """Return a copy of a split's loader, whose samples can be had by their positions.

    Raises:
        Unavailable: If there is no such loader.
    """
    loader = the_loader(subject, stage)
    name = STAGES[stage]
    if not isinstance(loader, DataLoader):
        raise Unavailable(f"the {name} data ({type(loader).__name__}) come from no `DataLoader`")
    dataset = loader.dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        kind = type(dataset).__name__
        raise Unavailable(f"the {name} data ({kind}) can only be iterated from their start")
    if not hasattr(dataset, "__len__"):
        raise Unavailable(f"the {name} data ({type(dataset).__name__}) have no length")
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
