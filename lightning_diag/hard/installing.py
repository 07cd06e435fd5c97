"""Puts a sampler into a loader that was made for another one, and takes it out again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

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
)

from lightning_diag.hard.sampler import OHEMSampler


class RefusedError(Exception):
    """A loader that cannot take the sampler; its text says why and what to do."""


class Drawn(NamedTuple):
    """What a loader's own sampler draws in an epoch, over all ranks."""

    samples: int
    """Of the data set."""
    pool: Tensor | None
    """Positions that it draws from; None is all."""
    draws: int
    takes_seed: bool = False
    """Whether each pass takes a number from torch's own random state."""


def drawn_by(loader: Any) -> Drawn:
    """Return what a loader draws.

    Raises:
        RefusedError: If that is not an equal chance for each of a number of samples.
    """
    if not isinstance(loader, DataLoader):
        raise RefusedError(
            f"the training loader is a {type(loader).__name__}, and only torch's DataLoader has a "
            "sampler that can be replaced: return one from `train_dataloader`."
        )
    if isinstance(loader.dataset, IterableDataset):
        raise RefusedError(
            f"{type(loader.dataset).__name__} is an IterableDataset, whose samples cannot be drawn "
            "by position: give it `__getitem__` and `__len__`, or mine within the batch with "
            "OHEMLoss."
        )
    # without batches a batch sampler is false
    batches: Any = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    if loader.batch_sampler is not None and not hasattr(batches, "sampler"):
        raise RefusedError(
            f"the batch sampler {type(batches).__name__} has no `sampler` that it draws from: "
            "derive it from torch.utils.data.BatchSampler and draw from `self.sampler`."
        )
    data: Any = loader.dataset
    return _drawn(getattr(batches, "sampler", batches), len(data))


def _drawn(sampler: Any, samples: int) -> Drawn:
    if isinstance(sampler, DistributedSampler):
        inner = getattr(sampler.dataset, "_sampler", None)  # Lightning's wrapper around another
        return Drawn(samples, None, samples) if inner is None else _drawn(inner, samples)
    if isinstance(sampler, RandomSampler):
        return Drawn(samples, None, len(sampler), sampler.generator is None)
    if isinstance(sampler, SequentialSampler):
        return Drawn(samples, None, samples)
    if isinstance(sampler, SubsetRandomSampler):
        pool = torch.as_tensor(list(sampler.indices), dtype=torch.int64)
        return Drawn(samples, pool, len(pool))
    raise RefusedError(
        f"the training loader has a {type(sampler).__name__}, which draws in a way of its own: "
        "leave the sampler out, and let losses decide what is drawn."
    )


def install(loader: Any, sampler: OHEMSampler) -> Callable[[], None]:
    """Have a loader draw from a sampler.

    Returns:
        What gives it its own sampler back; may be called again.
    """
    batches: Any = loader.batch_sampler
    before = loader.__dict__["sampler"]
    inner: Any = getattr(batches, "sampler", None)
    nested: Any = before if batches is None and isinstance(before, BatchSampler) else None
    kept = None if nested is None else nested.sampler
    if nested is not None:
        nested.sampler = sampler
    else:
        loader.__dict__["sampler"] = sampler  # the loader itself refuses
        if batches is not None:
            batches.sampler = sampler

    def undo() -> None:
        if nested is not None:
            nested.sampler = kept if nested.sampler is sampler else nested.sampler
        elif loader.__dict__.get("sampler") is sampler:
            loader.__dict__["sampler"] = before
        if batches is not None and batches.sampler is sampler:
            batches.sampler = inner

    return undo
