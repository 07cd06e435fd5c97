"""`LeakedSample`: samples of validation that are training's as well."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch.utils.data import Dataset

from lightning_diag.checks.base import Check
from lightning_diag.checks.data import Unavailable
from lightning_diag.checks.fingerprints import fingerprint, names_of, root
from lightning_diag.checks.generators import still
from lightning_diag.checks.positions import map_loader, population, spread, the_loader
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.twin import running, said
from lightning_diag.finding import Finding, NotObserved

_TRAIN, _HELD = 4096, 1024
"""Samples of training and of validation that are read at most (our choice): where all of validation
is in training, a 1,000th of training's is enough to see it."""
_SECONDS = 1.0
"""How long reading samples of a split may take (our choice)."""
_UNSEEN = 3.0
"""What may well be there where none was seen: the upper 95 % limit of a Poisson distribution."""
_TWICE = 4
"""Samples that are read twice, to see whether they are drawn anew each time (our choice)."""
_POSITIONS = 1_000_000
"""Positions of a split that are compared at most (our choice)."""


class Shared(NamedTuple):
    """How many samples of validation were found among training's."""

    hits: int
    held: int
    """Samples of validation that were compared."""
    train: int
    """Samples of training that they were compared with."""
    expected: float
    """How many would be by chance, since samples are equal within a split as well."""
    by: str
    """What was compared."""


def shared(train: Sequence[Any], held: Sequence[Any], by: str) -> Shared:
    """Count what is in both; anything that can be hashed, and of which no two are equal by chance.

    Example:
        >>> shared([1, 2, 3], [3, 4], "numbers")
        Shared(hits=1, held=2, train=3, expected=0.0, by='numbers')
    """
    known = set(train)
    return Shared(sum(each in known for each in held), len(held), len(train), 0.0, by)


def expected_by_chance(train: Sequence[Any], held: Sequence[Any]) -> float:
    """Return how many samples of validation equal one of training because samples are alike.

    Two numbers bound it, and the smaller one holds: the share of training that training has twice
    (Good and Turing), which is too high where rare samples were copied on purpose; and how often
    two samples of validation are equal. Each with three more than were seen.

    Example:
        >>> expected_by_chance(range(300), range(300, 310))
        0.1
    """
    twice = sum(count for count in Counter(train).values() if count > 1)
    n = len(held)
    pairs = sum(count * (count - 1) / 2 for count in Counter(held).values())
    rate = (pairs + _UNSEEN) / max(1.0, n * (n - 1) / 2)
    share = (twice + _UNSEEN) / max(1, len(train))
    return n * min(1.0, share, -math.expm1(-rate * len(train)))


@dataclass(frozen=True)
class LeakedSample(Check):
    """Samples that are in training and in validation.

    What it sees:
        Three things, each as far as there is something to compare: the positions that two subsets
        or samplers of one data set draw from; what data sets call their samples, such as the paths
        of files; and fingerprints of the largest array of each of some thousand samples, for a
        second a split, read without `transform` where the data set has one. Equal samples count
        only where there are `ratio` times as many as chance makes of it, since few words, or dark
        pictures, are equal within a split as well. Not observed where samples are drawn anew each
        time they are read. That near copies, or the statistics of both splits, were used, cannot be
        seen here.

    Why it matters:
        What a network has learned by heart it also answers well in validation: the number that
        decides when to stop, and which network to keep, is then no estimate of anything.

    What to do:
        Split once, by position, before anything else, and keep samples of one source (a patient, a
        video) on one side; look for duplicates in the whole data first.

    References:
        Kaufman et al., Leakage in Data Mining, TKDD 2012.
        Barz and Denzler, Do We Train on Test Data?, 2020, arXiv:1902.00423: 3 % of CIFAR-10's test
        pictures have a near copy in training.
    """

    code: ClassVar[str] = "leaked-sample"
    family: ClassVar[str] = "inputs"
    needs: ClassVar[tuple[str, ...]] = ("validation",)

    least: int = 3
    """Samples in both splits from which on it counts, at least 1 (our choice): one or two may be
    copies that were in the data before."""
    ratio: float = 3.0
    """Times as many, and one more, as samples that are equal within a split make likely, at least 1
    (our choice)."""

    def __post_init__(self) -> None:
        self._require("least", least=1, unit="sample")
        self._require("ratio", least=1.0)

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        if getattr(subject.trainer, "overfit_batches", 0):
            return self.not_observed("`overfit_batches` makes both splits the same on purpose")
        for found in (by_position(subject), by_name(subject), by_content(subject)):
            if found is None:
                continue
            if found.hits < max(self.least, self.ratio * (found.expected + 1)):
                continue
            return self.found(
                "suspect",
                f"{found.hits:,} of {found.held:,} samples of validation are among {found.train:,} "
                f"samples of training, by {found.by} (it counts from {self.least} on).",
                "Split once, by position, as `torch.utils.data.random_split` does, and remove "
                "copies before.",
                value=found.hits,
                threshold=self.least,
                window=found.held,
            )
        return []


def by_position(subject: Subject) -> Shared | None:
    """Compare positions, where both splits are of one data set."""
    train, held = (_positions(subject, stage) for stage in ("train", "validation"))
    if train[0] is not held[0]:
        return None
    return shared(train[1], held[1], "their positions in the same data set")


def by_name(subject: Subject) -> Shared | None:
    """Compare names, where data sets have any."""
    train, held = (_positions(subject, stage) for stage in ("train", "validation"))
    ours, theirs = names_of(train[0]), names_of(held[0])
    if ours is None or theirs is None:
        return None
    named = [ours[i] for i in train[1]], [theirs[i] for i in held[1]]
    return shared(*named, "what the data sets call them")


def _positions(subject: Subject, stage: Any) -> tuple[Any, list[int]]:
    """Return the data set that samples come from, and their positions in it."""
    chosen = population(map_loader(subject, stage))
    dataset: Any = the_loader(subject, stage).dataset
    step = max(1, len(chosen) // _POSITIONS)
    found = [root(dataset, position) for position in chosen[::step]]
    return (found[0][0] if found else dataset), [position for _, position in found]


def by_content(subject: Subject) -> Shared:
    """Compare fingerprints of samples.

    Raises:
        Unavailable: If a sample is another one each time it is read.
    """
    train = _fingerprints(subject, "train", _TRAIN)
    held = _fingerprints(subject, "validation", _HELD)
    found = shared(train, held, "their largest arrays")
    return found._replace(expected=expected_by_chance(train, held))


def _fingerprints(subject: Subject, stage: Any, most: int) -> list[bytes]:
    loader = map_loader(subject, stage)
    dataset = loader.dataset
    changes = _without_transforms(dataset)
    positions = spread(population(loader), most)
    with still(dataset), running(), said("a sample could not be read"):
        try:
            found = _read(dataset, positions, subject)
        except Exception:
            if not changes:
                raise
            for owner, name, value in changes:
                setattr(owner, name, value)
            found = _read(dataset, positions, subject)
        again = [fingerprint(dataset[position]) for position in positions[:_TWICE]]
    if again != found[: len(again)]:
        name = "training" if stage == "train" else "validation"
        raise Unavailable(f"samples of {name} are drawn anew each time they are read")
    return found


def _read(dataset: Any, positions: Sequence[int], subject: Subject) -> list[bytes]:
    end = time.monotonic() + min(_SECONDS, max(0.0, subject.time_left))
    found = []
    for position in positions:
        found.append(fingerprint(dataset[position]))
        if time.monotonic() > end:
            break
    return found


def _without_transforms(dataset: Any) -> list[tuple[Any, str, Any]]:
    """Take the transforms off copies of data sets; return what was there."""
    changes = []
    waiting = [dataset]
    while waiting:
        owner = waiting.pop()
        held = getattr(owner, "__dict__", {})
        for name in ("transform", "transforms", "target_transform"):
            if held.get(name) is not None:
                changes.append((owner, name, held[name]))
                setattr(owner, name, None)
        inner = [held.get("dataset"), *(held.get("datasets") or [])]
        waiting += [each for each in inner if isinstance(each, Dataset)]
    return changes
