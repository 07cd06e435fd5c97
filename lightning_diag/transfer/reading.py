"""What samples are: read in order, whether reading them again gives the same, and their hash."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from lightning_diag.transfer.keys import Digest
from lightning_diag.transfer.store import CacheRefusedError
from lightning_diag.transfer.trees import leaves

_FAR = 2**31 - 1


@dataclass
class Samples:
    """A dataset and how its samples are put together.

    Raises:
        CacheRefusedError: If they have no numbers, or cannot be taken apart again.
    """

    dataset: Any
    batch_size: int
    collate: Callable[[list[Any]], Any] = default_collate
    workers: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    """Of a loader that reads them: what its workers need."""

    @classmethod
    def of(cls, data: Any, batch_size: int) -> Samples:
        """Return those of a loader, or of a dataset with this batch size."""
        if isinstance(data, DataLoader):
            return cls.of_loader(data)
        return cls(_sized(data), batch_size)

    @classmethod
    def of_loader(cls, loader: Any) -> Samples:
        """Return those of a loader."""
        if not isinstance(loader, DataLoader):
            raise CacheRefusedError(f"{type(loader).__name__} is not torch's DataLoader")
        size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
        if loader.batch_sampler is None or not size:
            raise CacheRefusedError(
                "the loader does not make batches of a known size: give it `batch_size`"
            )
        options: dict[str, Any] = {}
        if loader.num_workers:
            options = {
                "worker_init_fn": loader.worker_init_fn,
                "multiprocessing_context": loader.multiprocessing_context,
                "prefetch_factor": loader.prefetch_factor,
            }
        dataset = _sized(loader.dataset)
        return cls(dataset, int(size), loader.collate_fn, loader.num_workers, options)

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: list[int], view: int | None = None) -> Any:
        """Return some samples as a batch; those of a view are the same at any time."""
        dataset = self.dataset if view is None else _Seeded(self.dataset, view)
        with same_random_state():
            return self.collate([dataset[i] for i in indices])

    def in_order(
        self, rows: range, view: int | None = None, *, seed: int = 0
    ) -> Iterator[tuple[list[int], Any]]:
        """Yield the numbers and batches of consecutive samples.

        The last batch of all is filled up with the first samples, since a sample's features may
        depend on how many others there are in its last bits.

        Args:
            view: Which random view of each sample, None for samples that are not random.
            seed: Of the random states meanwhile: what depends on them, another one shows.
        """
        size, count = self.batch_size, len(self)
        batches = [
            [i % count for i in range(start, start + size)]
            for start in range(rows.start, rows.stop, size)
        ]
        dataset = self.dataset if view is None else _Seeded(self.dataset, view)
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=self.collate,
            num_workers=self.workers,
            generator=torch.Generator().manual_seed(seed),
            **self.options,
        )
        with same_random_state():
            _seed(seed)
            yield from zip(batches, loader, strict=True)

    def spread(self, count: int) -> list[int]:
        """Return the numbers of samples that are evenly spread over all."""
        count = min(count, len(self))
        return [i * len(self) // count for i in range(count)]


class _Seeded(Dataset[Any]):
    """Draws each sample's random numbers from its number and the view's."""

    def __init__(self, dataset: Any, view: int) -> None:
        self.dataset, self.view = dataset, view

    def __getitem__(self, index: int) -> Any:
        _seed(int(Digest().add([self.view, index]).hex(), 16))
        return self.dataset[index]


def _seed(seed: int) -> None:
    torch.manual_seed(seed % 2**63)
    random.seed(seed)
    np.random.seed(seed % _FAR)  # noqa: NPY002  # transforms draw from the global one


@contextmanager
def same_random_state() -> Iterator[None]:
    """Put back all random states afterwards."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)


def require_repeatable(samples: Samples, count: int) -> None:
    """Fetch some samples twice, with different random states.

    Raises:
        CacheRefusedError: If they differ.
    """
    indices = samples.spread(count)
    with same_random_state():
        read = [
            [Digest().add(_Seeded(samples.dataset, seed)[i]).hex() for i in indices]
            for seed in (_FAR - 1, _FAR - 2)
        ]
    changed = [i for i, first, second in zip(indices, *read, strict=True) if first != second]
    if changed:
        raise CacheRefusedError(
            f"transforms are random: sample {changed[0]} is another one when it is fetched again, "
            f"as are {len(changed) - 1} more of {len(indices)}. Take the random part out, or cache "
            "several random views of each sample with `views`"
        )


def require_rows(batch: Any, count: int) -> None:
    """Refuse a batch whose values are not tensors with a row for each sample."""
    for path, value in leaves(batch).items():
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != count:
            what = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
            raise CacheRefusedError(
                f"the batch's value {path!r} is a {type(value).__name__} {what}".rstrip()
                + f", not a tensor with one row for each of {count} samples: leave it out of the "
                "samples, or put it together in `collate_fn`"
            )


@dataclass(frozen=True)
class DataKey:
    """What a dataset was when it was looked at."""

    key: str
    batches: dict[int, str]
    """Hash of each batch that was read in order, by the number of its first sample."""


def rows_hash(batch: Any, rows: int) -> str:
    """Return the hash of the first rows of a batch."""
    digest = Digest()
    for path, value in leaves(batch).items():
        digest.add(path).add(value[:rows] if isinstance(value, Tensor) else value)
    return digest.hex()


def data_key(samples: Samples, *, check: str, count: int, views: int | None, key: str) -> DataKey:
    """Return the hash of a dataset: its type and length, the user's own key, and its samples.

    Args:
        check: ``all`` reads every sample; ``sampled`` reads `count` of them.
        views: Random views of each sample, None for none.
    """
    digest = Digest().add([key, len(samples), samples.batch_size, views, check])
    digest.add(type(samples.dataset).__qualname__).add(samples.collate)
    digest.add(transform_key(samples.dataset))
    known: dict[int, str] = {}
    for view in range(views or 1):
        number = None if views is None else view
        if check == "all":
            for indices, batch in samples.in_order(range(len(samples)), number):
                found = rows_hash(batch, min(len(indices), len(samples) - indices[0]))
                digest.add(found)
                known[indices[0]] = found
        else:
            for i in samples.spread(count):
                digest.add(rows_hash(samples.batch([i], number), 1))
    return DataKey(digest.hex(), known if views is None else {})


def transform_key(dataset: Any) -> str:
    """Return the hash of what a dataset does to its samples, as far as its settings say it.

    Data that it holds is left to the samples' own hash.
    """
    digest = Digest()
    while dataset is not None:
        digest.add(type(dataset).__qualname__)
        for name, value in sorted(getattr(dataset, "__dict__", {}).items()):
            if "transform" in name.lower():
                digest.add(name).add(value)
        dataset = getattr(dataset, "dataset", None)
    return digest.hex()


def _sized(dataset: Any) -> Any:
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise CacheRefusedError(
            f"the samples of {type(dataset).__name__} have no numbers by which their features "
            "could be found again: use a dataset with `__getitem__` and `__len__`"
        )
    if not hasattr(dataset, "__len__") or len(dataset) == 0:
        raise CacheRefusedError(f"{type(dataset).__name__} does not say how many samples it has")
    return dataset
