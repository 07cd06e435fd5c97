"""`TrainValidationShift`: samples of training and validation that were processed differently."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from lightning_diag.checks.base import Check
from lightning_diag.checks.data import clone
from lightning_diag.checks.items import items
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.measure.base import Columns
from lightning_diag.measure.data import is_measured, leaf_columns, leaf_numbers, leaves
from lightning_diag.splits import Limits, Side, difference
from lightning_diag.wording import shown

_SAMPLES = 64
"""Samples of each split that are looked at (our choice), as for what enters the first layer."""


def sides(batches: Iterable[Any]) -> dict[str, Side]:
    """Return what each tensor of numbers looks like over some batches, by its name.

    Example:
        >>> from torch import tensor
        >>> sides([[tensor([[1.0], [3.0]])]])["0"].mean
        2.0
    """
    known: dict[str, Columns] = {}
    for batch in batches:
        for name, x in leaves(batch):
            if is_measured(x):
                columns = leaf_columns(x)
                known[name] = columns if name not in known else known[name].joined(columns)
    found = {}
    for name, columns in known.items():
        numbers = leaf_numbers(columns.sums[0].tolist(), columns.maxima[0].tolist())
        if numbers:
            found[name] = Side(*(numbers.get(field, 0.0) for field in Side._fields))
    return found


@dataclass(frozen=True)
class TrainValidationShift(Check):
    """Validation's samples do not look like training's.

    What it sees:
        64 samples from all over each split, in batches as the module gets them. Mean and standard
        deviation of each tensor of numbers count if the means differ by at least `shift` standard
        deviations, or the standard deviations by a factor of at least `factor`, and if that is at
        least `errors` times what chance makes of so few samples.

    Why it matters:
        A network that was trained on data of one kind is asked about data of another kind; what
        validation says is then no estimate of anything. Mostly one of the two was normalised twice
        or not at all, or by statistics of its own (C7).

    What to do:
        Use one function for both stages, with the mean and the standard deviation of the training
        split. If the two differ by nature (a later year, another hospital), validation tells
        how the network fares there.

    References:
        Breck et al., Data Validation for Machine Learning, MLSys 2019.
    """

    code: ClassVar[str] = "train-validation-shift"
    family: ClassVar[str] = "inputs"
    needs: ClassVar[tuple[str, ...]] = ("batch", "validation", "copy")

    shift: float = 0.75
    """Difference of the means in standard deviations of training, at least 0. Our choice, as in
    `lightning_diag.rules`: other class frequencies moved it by less than 0.5."""
    factor: float = 1.6
    """Ratio of standard deviations, at least 1. Our choice: mixing samples or adding noise in
    training alone makes 1.4, and dividing by 255 in one stage alone 255."""
    errors: float = 6.0
    """Standard errors, at least 0. Our choice: so that chance plays no part."""
    samples: int = 8
    """Samples of each split that a verdict needs, at least 2. Our choice: with fewer, their spread
    is not known."""

    def __post_init__(self) -> None:
        self._require("shift", "errors", least=0.0)
        self._require("factor", least=1.0)
        self._require("samples", least=2, unit="samples")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        ours = [clone(each) for each in items(subject, "train").batches(_SAMPLES)]
        theirs = [clone(each) for each in items(subject, "validation").batches(_SAMPLES)]
        twin = subject.copy()
        train = sides(map(twin.moved, ours))
        twin.trainer.validating = True
        twin.module.eval()
        held = sides(map(twin.moved, theirs))
        shared = [name for name in held if name in train]
        if not shared:
            return self.not_observed("no tensor of numbers is in batches of both splits")
        most = min(min(train[name].samples, held[name].samples) for name in shared)
        if most < self.samples:
            return self.not_observed(f"fewer than {self.samples} samples of a split were seen")
        for name in shared:
            found = self._compare(name, train[name], held[name])
            if found:
                return found
        return []

    def _compare(self, name: str, train: Side, held: Side) -> list[Finding]:
        found = difference(train, held, Limits(self.shift, self.factor, self.errors))
        if found is None:
            return []
        return self.found(
            "suspect",
            f"Training's and validation's samples differ in tensor {name!r}: {found.text} "
            f"(threshold {shown(found.threshold)}). Mean and standard deviation are "
            f"{shown(train.mean)} and {shown(train.std)} in training, {shown(held.mean)} and "
            f"{shown(held.std)} in validation, over {train.samples:.0f} and "
            f"{held.samples:.0f} samples.",
            "Process both splits by one function, with mean and standard deviation of the "
            "training split, and look at a batch of each `torch.utils.data.DataLoader`.",
            value=min(found.value, 1e30),
            threshold=found.threshold,
            window=int(train.samples + held.samples),
        )
