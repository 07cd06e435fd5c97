"""What worker processes of a loader draw and give: seen in real ones, of copies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from lightning_diag.checks.data import clone
from lightning_diag.checks.generators import generators_of, global_states, state_of
from lightning_diag.checks.twin import running, said

_TIMEOUT = 20.0
"""Seconds after which a worker process that gives nothing is given up (our choice)."""
_OWN = ("_wrapped", "_positions")


@dataclass(frozen=True)
class Drawn:
    """The states of the generators in a worker process, by where they are."""

    before: Mapping[str, str]
    after: Mapping[str, str]
    """After some samples were read."""

    @property
    def used(self) -> set[str]:
        """The generators that reading samples draws from."""
        return {name for name, state in self.after.items() if self.before.get(name) != state}


class Probe(Dataset[Any]):
    """A data set whose samples are what a worker process draws from to read those of another one.

    For anything else it is that other one: a `worker_init_fn` may ask it, and set things on it.

    Args:
        wrapped: The other one.
        positions: The samples to read.
    """

    def __init__(self, wrapped: Any, positions: Sequence[int]) -> None:
        vars(self)["_wrapped"] = wrapped
        vars(self)["_positions"] = tuple(positions)

    def __getitem__(self, index: int) -> Drawn:
        before = self._states()
        for position in self._positions:
            _ = self._wrapped[position]
        return Drawn(before, self._states())

    def __len__(self) -> int:
        return len(self._wrapped)

    def __getattr__(self, name: str) -> Any:
        if name in _OWN or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._wrapped, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._wrapped, name, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def _states(self) -> dict[str, str]:
        held = generators_of(self._wrapped)
        return {**global_states(), **{f"dataset.{k}": state_of(g) for k, g in held.items()}}


def start_method(loader: Any) -> str:
    """Return how worker processes of a loader are started: ``fork``, ``spawn`` or ``forkserver``.

    Example:
        >>> start_method(DataLoader([1], num_workers=1, multiprocessing_context="spawn"))
        'spawn'
    """
    context = loader.multiprocessing_context or torch.multiprocessing
    # Asking for the method without this would settle it for the whole process.
    chosen: str | None = context.get_start_method(allow_none=True)
    return chosen or torch.multiprocessing.get_all_start_methods()[0]


def _first(samples: list[Any]) -> Any:
    return samples[0]


def drawn_by_workers(loader: Any, positions: Sequence[int], workers: int) -> list[Drawn]:
    """Return what each of some worker processes draws from, to read the same samples.

    Args:
        loader: A copy, to be iterated by nobody else; its generator moves on.
        positions: The samples to read in each.
        workers: How many, at least 1.

    Raises:
        Unavailable: If a process fails.
    """
    probe: DataLoader[Any] = DataLoader(
        Probe(loader.dataset, positions),
        batch_size=1,
        sampler=range(workers),
        num_workers=workers,
        collate_fn=_first,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        timeout=_TIMEOUT,
    )
    return list(_iterated(probe, workers))


def batches_by_workers(loader: Any, n: int, workers: int) -> list[Any]:
    """Return the first batches that some worker processes of a loader make, in turn.

    Args:
        loader: A copy, to be iterated by nobody else.
        n: Batches.
        workers: How many, at least 1.

    Raises:
        Unavailable: If a process fails.
    """
    vars(loader).update(num_workers=workers, timeout=_TIMEOUT)
    if loader.prefetch_factor is None:
        vars(loader)["prefetch_factor"] = 1
    return [clone(batch) for batch in _iterated(loader, n)]


def _iterated(loader: Any, n: int) -> Iterator[Any]:
    with running(), said("worker processes could not be started"):
        iterator = iter(loader)
        try:
            for _, batch in zip(range(n), iterator, strict=False):
                yield batch
        finally:
            shutdown = getattr(iterator, "_shutdown_workers", None)
            if shutdown is not None:
                shutdown()
