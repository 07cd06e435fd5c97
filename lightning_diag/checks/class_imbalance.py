"""`ClassImbalance`: classes so rare that a network may do without them, or one alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch.utils.data import WeightedRandomSampler

from lightning_diag.checks.base import Check
from lightning_diag.checks.positions import the_loader
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.targets import class_target, labels
from lightning_diag.finding import Finding, NotObserved


@dataclass(frozen=True)
class ClassImbalance(Check):
    """Classes that are many times rarer than others in training, or one class alone.

    What it sees:
        The labels of up to 1,024 samples from all over training, where a loss takes one class for
        each sample. A note if the most frequent class is at least `extreme` times as frequent as
        another one that occurs, and neither the loss has weights nor a sampler draws by weights.
        If at least `extreme` labels are of one class, and no other occurs, that is more than a
        note. Imbalance alone is no fault: networks often learn it. While training,
        `lightning_diag.rules` judges by what is recognised.

    Why it matters:
        A loss that is a mean over samples is small for a network that always answers with the
        frequent class, and accuracy looks good. Of one class there is nothing to learn.

    What to do:
        Look at the recall of each class; weigh the loss or sample by class frequency if rare ones
        are left out. With one class alone, look at how labels are read.

    References:
        SageMaker Debugger, rule ClassImbalance.
        Cui et al., Class-Balanced Loss Based on Effective Number of Samples, 2019,
        arXiv:1901.05555.
    """

    code: ClassVar[str] = "class-imbalance"
    family: ClassVar[str] = "labels"
    needs: ClassVar[tuple[str, ...]] = ("batch", "copy")

    extreme: float = 80.0
    """Times that the most frequent class must be as frequent as another, at least 1. Our choice, as
    in `lightning_diag.rules`: runs that learned classes up to 40 times rarer showed at most 76."""

    def __post_init__(self) -> None:
        self._require("extreme", least=1.0)

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        target = class_target(subject)
        known = labels(subject, target, "train")
        counts = known.counts(target.classes)
        occurring = counts[counts > 0]
        if not len(occurring):
            return self.not_observed("no labels were read")
        most, rarest = int(occurring.max()), int(occurring.min())
        if len(occurring) == 1:
            return [] if most < self.extreme else self._alone(target.place, int(counts.argmax()),
                                                              most, target.classes)  # fmt: skip
        sampler = getattr(the_loader(subject, "train"), "sampler", None)
        is_met = target.weighted or isinstance(sampler, WeightedRandomSampler)
        if most < self.extreme * rarest or is_met:
            return []
        return self.found(
            "note",
            f"Class {int(counts.argmax())} is {most / rarest:,.0f} times as frequent in training "
            f"as the rarest that occurs (threshold {self.extreme:g}; `{target.place}`, "
            f"{len(known.values):,} of {known.population:,} samples).",
            "Judge by the recall of each class. If rare ones are left out, give the loss weights, "
            "as `lightning_diag.class_balanced_weights` computes them, or sample with "
            "`torch.utils.data.WeightedRandomSampler`.",
            value=most / rarest,
            threshold=self.extreme,
            places=(target.place,),
            window=len(known.values),
        )

    def _alone(self, place: str, index: int, count: int, classes: int) -> list[Finding]:
        return self.found(
            "suspect",
            f"At `{place}` all {count:,} labels of training that were read are of class {index} "
            f"of {classes:,} (threshold {self.extreme:g} labels): there is nothing to learn.",
            "Look at how labels are read, with `torch.unique`.",
            value=count,
            threshold=self.extreme,
            places=(place,),
            window=count,
        )
