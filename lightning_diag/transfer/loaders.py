"""A loader that gives batches of cached features, or its own, as is decided at the last moment.

Sampler, order and random states are those of the loader itself, whichever it gives: iterating draws
the same random numbers at the same moments.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from lightning_diag.transfer.features import CachedFeatures
from lightning_diag.transfer.reading import DataKey, Samples

_ATTRIBUTE = "_lightning_diag_cached"


@dataclass(eq=False)
class Source:
    """One loader of a fit."""

    loader: Any
    samples: Samples
    is_training: bool
    original: type
    """The loader's class."""
    features: CachedFeatures | None = None
    """What it gives; None for its own batches."""
    data: DataKey | None = None
    """What its samples were."""
    began: bool = False

    @classmethod
    def adopt(cls, loader: Any, samples: Samples, *, is_training: bool) -> Source:
        """Let a loader give features, as soon as there are some."""
        source = cls(loader, samples, is_training, type(loader))
        loader.__dict__[_ATTRIBUTE] = source
        kind: Any = type(loader)
        loader.__class__ = _switching(kind)
        return source

    @property
    def spared(self) -> float:
        """Seconds that one pass over the loader would take more, in one process."""
        if self.features is None:
            return 0.0
        samples = len(self.loader) * self.samples.batch_size
        return self.features.seconds * samples / len(self.samples)

    @staticmethod
    def of(loader: Any) -> Source | None:
        """Return what a loader was adopted as."""
        source: Source | None = getattr(loader, "__dict__", {}).get(_ATTRIBUTE)
        return source

    def release(self) -> None:
        """Leave the loader as it was; may be called again."""
        if self.loader.__dict__.pop(_ATTRIBUTE, None) is not None:
            kind: Any = self.original
            while "_is_left" in vars(kind) and kind._is_left(self.loader):
                kind = kind.__mro__[1]  # of somebody who has let go since
            self.loader.__class__ = kind
        if self.features is not None:
            self.features.close()
            self.features = None


@functools.cache
def _switching(kind: type) -> type:
    """Return a subclass of a loader's class, of the same name, that asks its source."""
    members = {"__iter__": lambda self: _Batches(Source.of(self)), "__module__": kind.__module__}
    return type(kind.__name__, (kind,), members)


class _Batches:
    """One pass over a loader."""

    def __init__(self, source: Source | None) -> None:
        assert source is not None
        self._source, loader = source, source.loader
        self._own: Iterator[Any] | None = None
        self._before = _states(loader)
        if not (loader.persistent_workers and source.began):
            torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
        source.began = True
        self._indices: Iterator[Any] = iter(loader._index_sampler)
        # Workers ask for their first batches at once, so that the sampler draws its seed then.
        self._ahead = [next(self._indices, None)] if loader.num_workers else []
        self._features: CachedFeatures | None = None
        self._is_decided = False
        self._given = 0

    @property
    def _sampler_iter(self) -> Iterator[Any]:
        """Where the positions of samples come from, under the name that torch's iterators have."""
        return self._indices if self._own is None else self._own._sampler_iter  # type: ignore[attr-defined]

    @property
    def _num_yielded(self) -> int:
        """Batches so far, as well."""
        return self._given if self._own is None else self._own._num_yielded  # type: ignore[attr-defined]

    def __iter__(self) -> _Batches:
        return self

    def __next__(self) -> Any:
        if not self._is_decided:
            self._decide()
        if self._own is not None:
            return next(self._own)
        assert self._features is not None
        indices = self._ahead.pop() if self._ahead else next(self._indices)
        if indices is None:
            raise StopIteration
        self._given += 1
        return self._features.batch(indices)

    def _decide(self) -> None:
        self._is_decided = True
        self._features = self._source.features
        if self._features is None:
            loader = self._source.loader
            now = _states(loader)
            _restore(self._before)
            own: Any = self._source.original
            self._own = own.__iter__(loader)
            _restore(now)

    def __len__(self) -> int:
        return len(self._source.loader)


def _generators(loader: DataLoader[Any]) -> list[torch.Generator]:
    inner = getattr(loader.batch_sampler, "sampler", None)
    holders = (loader, loader.sampler, loader.batch_sampler, inner)
    found = [getattr(each, "generator", None) for each in holders]
    unique = {id(each): each for each in found if isinstance(each, torch.Generator)}
    return list(unique.values())


def _states(loader: DataLoader[Any]) -> list[Any]:
    numpy = np.random.get_state()  # noqa: NPY002  # samplers may draw from it
    generators = [(each, each.get_state()) for each in _generators(loader)]
    return [random.getstate(), numpy, torch.get_rng_state(), generators]


def _restore(states: list[Any]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])
    for generator, state in states[3]:
        generator.set_state(state)


def intercepted(strategy: Any, adopt: Callable[[Any], object]) -> Callable[[], None]:
    """Show `adopt` each loader as a strategy has made it ready, before anybody iterates it.

    Returns:
        What ends that; may be called again.
    """
    process: Callable[[Any], Any] = strategy.process_dataloader
    before = strategy.__dict__.get("process_dataloader")

    def processed(loader: Any) -> Any:
        loader = process(loader)
        adopt(loader)
        return loader

    def undo() -> None:
        if strategy.__dict__.get("process_dataloader") is processed:
            del strategy.__dict__["process_dataloader"]
            if before is not None:
                strategy.__dict__["process_dataloader"] = before

    strategy.__dict__["process_dataloader"] = processed
    return undo
