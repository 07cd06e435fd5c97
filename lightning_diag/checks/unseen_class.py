"""`UnseenClass`: classes that validation asks for and training never shows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.checks.base import Check
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.targets import class_target, labels
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.wording import listing


@dataclass(frozen=True)
class UnseenClass(Check):
    """Classes that occur in validation and not in training.

    What it sees:
        The labels of up to 1,024 samples from all over each split, where a loss takes one class for
        each sample. A class of validation that training lacks counts if all of training was read,
        or if a class as frequent as in validation would be missing by chance less often than
        `chance`. It is a note where a random split may well have done it.

    Why it matters:
        A network cannot learn what it is never shown: these samples are all wrong. Mostly the data
        were sorted by class when they were split, or the splits number classes differently.

    What to do:
        Split class by class, so that each has its share of all; use one table of class numbers.

    References:
        Kohavi, A Study of Cross-Validation and Bootstrap, IJCAI 1995: stratified splits (T6).
    """

    code: ClassVar[str] = "unseen-class"
    family: ClassVar[str] = "labels"
    needs: ClassVar[tuple[str, ...]] = ("batch", "validation", "copy")

    chance: float = 1e-3
    """How often chance may do it, 0 to 1, for it to count as a fault. Our choice: a class of seven
    samples in ten thousand is missed as often by a split that is drawn."""

    def __post_init__(self) -> None:
        self._require("chance", least=0.0, most=1.0)

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        target = class_target(subject)
        train, held = (labels(subject, target, stage) for stage in ("train", "validation"))
        ours, theirs = train.counts(target.classes), held.counts(target.classes)
        missing = [i for i in range(target.classes) if theirs[i] and not ours[i]]
        odds = {i: absent_by_chance(int(theirs[i]), len(held.values), len(train.values))
                for i in missing}  # fmt: skip
        certain = [i for i in missing if train.is_all or odds[i] < self.chance]
        if not certain:
            return []
        is_fault = min(odds[i] for i in certain) < self.chance
        count = sum(int(theirs[i]) for i in certain)
        classes = "class" if len(certain) == 1 else "classes"
        return self.found(
            "suspect" if is_fault else "note",
            f"{count:,} of {len(held.values):,} samples of validation are of {classes} "
            f"{listing([str(i) for i in certain])}, which none of {len(train.values):,} of "
            f"{train.population:,} samples of training is (`{target.place}`, "
            f"{target.classes:,} classes).",
            "Split class by class, with one table of class numbers: "
            "`torch.utils.data.Subset` takes the positions.",
            value=count,
            threshold=0,
            places=(target.place,),
            window=len(held.values),
        )


def absent_by_chance(count: int, held: int, train: int) -> float:
    """Return how often all samples of a class are drawn into one split, when both are drawn.

    Args:
        count: Samples of the class, all in validation.
        held: Samples of validation.
        train: Samples of training.

    Example:
        >>> absent_by_chance(1, 25, 75), absent_by_chance(2, 1, 3)
        (0.25, 0.0)
    """
    if count > held:
        return 0.0
    logs = (math.log((held - i) / (held + train - i)) for i in range(count))
    return math.exp(sum(logs))
