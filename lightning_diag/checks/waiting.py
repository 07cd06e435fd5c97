"""How long training would wait for its batches: copies of the loaders, with the user's workers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

from torch.utils.data import DataLoader

from lightning_diag.checks.data import Unavailable, copies, leaves
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.twin import running, said

BATCHES = 9
"""Batches that are fetched without worker processes; the first is not counted. Our choice: their
median leaves out files that are read for the first time."""
SECONDS = 5.0
"""Time after which no further batch is fetched (our choice); the workers' start is not in it."""
LEAST = 3
"""Fetches that must have been timed (our choice)."""


class Fetch(NamedTuple):
    """How fast a loader is."""

    seconds: float
    """Of a batch, in steady state."""
    workers: int
    """Processes that load while training goes on."""
    batches: int
    """That were timed."""

    def wait(self, step: float) -> float:
        """Return the seconds that a step of some seconds waits for its batch.

        Example:
            >>> Fetch(0.5, 0, 8).wait(2.0), Fetch(2.5, 4, 8).wait(2.0)
            (0.5, 0.5)
        """
        return self.seconds if not self.workers else max(0.0, self.seconds - step)


def share(fetches: Sequence[Fetch], step: float) -> float:
    """Return the share of the time that passes in waiting, 0 to 1.

    Example:
        >>> share([Fetch(0.5, 0, 8), Fetch(1.5, 2, 8)], 1.0)  # one in the step, one beside it
        0.5
    """
    waited = sum(fetch.wait(step) for fetch in fetches)
    return waited / (waited + step) if waited + step > 0 else 0.0


def fetches_of(subject: Subject) -> list[Fetch]:
    """Time some batches of each training loader.

    Raises:
        Unavailable: If they can be iterated only once, or too few can be timed.
    """
    fetches: list[Fetch] = []
    for loader in leaves(copies(subject.loaders)):
        with running(), said("the data could not be loaded"):
            workers = _as_many_workers(subject, loader, len(fetches))
            fetches.append(timed(loader, workers, min(SECONDS, subject.time_left)))
    return fetches


def _as_many_workers(subject: Subject, loader: Any, index: int) -> int:
    """Give a copy as many worker processes as the user's loader has."""
    theirs = list(leaves(subject.loaders))[index]
    if loader is theirs and not isinstance(loader, DataLoader):
        if iter(loader) is loader:
            raise Unavailable(f"the data ({type(loader).__name__}) can be iterated only once")
        return 0
    if loader is theirs:
        raise Unavailable("a loader cannot be copied")
    # Loaders refuse to have it set.
    loader.__dict__["num_workers"] = theirs.num_workers
    return int(theirs.num_workers)


def timed(
    loader: Any, workers: int, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> Fetch:
    """Time the batches of a loader.

    Args:
        loader: A copy of the user's.
        workers: Its processes.
        seconds: Time after which no further batch is fetched, but for the first ones.
        clock: Gives the time in seconds.

    Raises:
        Unavailable: If it has too few batches.
    """
    wanted = 2 * workers + 1 if workers else BATCHES
    arrivals = []
    with ExitStack() as ends:
        iterator = iter(loader)
        ends.callback(getattr(iterator, "_shutdown_workers", lambda: None))
        if not workers:
            arrivals.append(clock())
        for _ in _up_to(iterator, wanted):
            arrivals.append(clock())
            if arrivals[-1] - arrivals[0] > seconds and len(arrivals) > (workers or LEAST + 1):
                break
    return _fetch(arrivals, workers)


def _up_to(iterator: Iterator[Any], n: int) -> Iterator[Any]:
    return (batch for _, batch in zip(range(n), iterator, strict=False))


def _fetch(arrivals: Sequence[float], workers: int) -> Fetch:
    """Return the pace of batches that were waited for, each at once after the last.

    Without workers that is the median distance but for the first; with them the mean over whole
    turns of all of them, since those of one turn arrive together.

    Example:
        >>> _fetch([0.0, 3.0, 3.5, 4.0, 4.5], 0).seconds  # the first opens a file
        0.5
        >>> _fetch([9.0, 9.0, 10.0, 10.0, 11.0], 2).seconds  # two workers, a second each
        0.5
    """
    gaps = [b - a for a, b in pairwise(arrivals)]
    if not workers:
        gaps = gaps[1:]
        if len(gaps) < LEAST:
            raise Unavailable(f"an epoch has fewer than {LEAST + 1} batches")
        return Fetch(median(gaps), 0, len(gaps))
    turns = math.floor(len(gaps) / workers)
    if not turns:
        raise Unavailable(f"an epoch has fewer batches than its loader has workers, {workers}")
    counted = turns * workers
    return Fetch((arrivals[counted] - arrivals[0]) / counted, workers, counted)
