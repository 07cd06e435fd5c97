"""`RepeatedAugmentation`: random changes of samples that are drawn again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from lightning_diag.checks.base import Check
from lightning_diag.checks.generators import generators_of, still
from lightning_diag.checks.positions import map_loader, population, spread, the_loader
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.workers import Drawn, drawn_by_workers, start_method
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.wording import listing

_WORKERS = 2
"""Worker processes that are compared (our choice): more would not say more."""


@dataclass(frozen=True)
class RepeatedAugmentation(Check):
    """Worker processes that draw the same numbers as each other, or in each epoch.

    What it sees:
        Two real worker processes of a copy of the training loader, begun twice, in which `samples`
        samples are read: the states of Python's, NumPy's and torch's own generators, and of those
        that the data set and its transforms hold. Only those count that reading moves. torch seeds
        the former three in each worker anew, so that it looks only where the data set holds a
        generator, or there is a `worker_init_fn`. Not observed where processes are not forked.

    Why it matters:
        A generator that a data set holds is copied into each process with its state, and copied
        again in the next epoch; a `worker_init_fn` with a fixed seed does the same to all others.
        The same random crops, flips and noise come in every worker or in every epoch: there is far
        less augmentation than it seems, and no error.

    What to do:
        Draw from torch's generator. Or make the generator when it is first needed, in the worker,
        with `torch.initial_seed()`, which differs by worker and by epoch; persistent workers keep
        theirs from epoch to epoch.

    References:
        PyTorch documentation of `torch.utils.data`: randomness in multi-process data loading.
    """

    code: ClassVar[str] = "repeated-augmentation"
    family: ClassVar[str] = "loader"

    samples: int = 4
    """Samples that each process reads, at least 1. Our choice: a change that is made half of the
    time draws a number each time."""

    def __post_init__(self) -> None:
        self._require("samples", least=1, unit="sample")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        loader = map_loader(subject, "train")
        users = the_loader(subject, "train")
        workers = min(_WORKERS, users.num_workers)
        if not workers or not (generators_of(loader.dataset) or _is_own(loader.worker_init_fn)):
            return []
        method = start_method(loader)
        if method != "fork":
            return self.not_observed(f"processes are started by {method}, which takes seconds")
        positions = spread(population(loader), self.samples)
        with still(loader.dataset):
            first = drawn_by_workers(loader, positions, workers)
            again = drawn_by_workers(loader, positions, 1)
        by_worker = alike(first) if len(first) > 1 else []
        # Workers that persist keep their generators from epoch to epoch.
        by_epoch = [] if users.persistent_workers else alike([first[0], again[0]])
        names = by_worker or by_epoch
        if not names:
            return []
        of = (
            f"all {users.num_workers} worker processes begin"
            if by_worker
            else "worker processes begin"
        )
        when = " in each epoch" if by_epoch else ""
        return self.found(
            "suspect",
            f"To read training samples, {of} with the same state of {listing(names)}{when}: "
            f"random changes of samples repeat (seen in {len(first) + 1} processes).",
            "Draw with `torch.rand` and its like, or seed a generator with `torch.initial_seed` in "
            "the worker process; no `torch.utils.data.DataLoader(worker_init_fn=...)` may set a "
            "fixed seed.",
            value=len(names),
            threshold=0,
            places=names,
            window=len(positions),
        )


def alike(processes: Sequence[Drawn]) -> list[str]:
    """Return the generators that reading moves, and that are alike in all processes.

    What counts is where they are afterwards: some seed themselves when they are first used.

    Example:
        >>> alike([Drawn({"torch": "a"}, {"torch": "b"}), Drawn({"torch": "a"}, {"torch": "b"})])
        ['torch']
    """
    used = set.intersection(*(each.used for each in processes))
    return sorted(name for name in used if len({each.after[name] for each in processes}) == 1)


def _is_own(function: Any) -> bool:
    """Return whether a `worker_init_fn` is the user's, and not what Lightning puts there."""
    inner = function.func if isinstance(function, partial) else function
    return inner is not None and getattr(inner, "__name__", "") != "pl_worker_init_function"
