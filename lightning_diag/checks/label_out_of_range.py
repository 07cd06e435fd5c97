"""`LabelOutOfRange`: targets that are no class of the output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lightning_diag.checks.base import Check
from lightning_diag.checks.data import Unavailable
from lightning_diag.checks.given import seen_inputs
from lightning_diag.checks.positions import Stage
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.target_watch import Target
from lightning_diag.checks.targets import labels
from lightning_diag.finding import Finding, NotObserved

_STAGES: tuple[Stage, ...] = ("train", "validation")


@dataclass(frozen=True)
class LabelOutOfRange(Check):
    """Targets of a loss of classes that are no index of a class.

    What it sees:
        What cross-entropy, NLL and the multi-class hinge are given as target in a step on a copy,
        and, where that is a tensor of the batch with a few numbers a sample, the labels of up to
        1,024 samples from all over each split. Whole numbers must be 0 or more, and less than the
        number of classes, but for `ignore_index`; numbers with a fraction point are no index.

    Why it matters:
        On the CPU the step ends with an error, maybe hours later, at the first such sample. On a
        GPU it is an assertion on the device, whose message names no label, and after which nothing
        works in this process.

    What to do:
        Labels that begin with 1 need a subtraction, or an output more; a mark for "no label" is
        passed as `ignore_index`; indices are `long`.

    References:
        PyTorch documentation of `CrossEntropyLoss`: class indices in the range [0, C).
    """

    code: ClassVar[str] = "label-out-of-range"
    family: ClassVar[str] = "labels"
    needs: ClassVar[tuple[str, ...]] = ("batch", "copy")

    least: int = 1
    """Such labels from which on it counts, at least 1 (our choice): one is enough to fail."""

    def __post_init__(self) -> None:
        self._require("least", least=1, unit="label")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        seen = seen_inputs(subject)
        if not seen.targets:
            why = "no loss was seen that takes the index of a class"
            return self.not_observed(seen.failed or why)
        for target in seen.targets:
            if not target.is_index:
                return self._number(target) if seen.failed else []
            for values, where in _looks(subject, target):
                found = self._judge(target, values, where)
                if found:
                    return found
        return []

    def _judge(self, target: Target, values: Tensor, where: str) -> list[Finding]:
        wrong = out_of_range(target.counted(values), target.classes)
        if len(wrong) < self.least:
            return []
        low, high = int(wrong.min()), int(wrong.max())
        runs = f"{low} is among them" if low == high else f"they run from {low} to {high}"
        return self.found(
            "bad",
            f"At `{target.place}` {len(wrong):,} of {values.numel():,} targets {where} are none of "
            f"the {target.classes:,} classes, 0 to {target.classes - 1:,}, that the output has: "
            f"{runs}.",
            "Number classes from 0 on, give the last layer an output for each, and pass a mark "
            "for no label to `torch.nn.CrossEntropyLoss(ignore_index=...)`.",
            value=high if high >= target.classes else low,
            threshold=target.classes - 1 if high >= target.classes else 0,
            places=(target.place,),
            window=values.numel(),
        )

    def _number(self, target: Target) -> list[Finding]:
        kind = str(target.values.dtype).removeprefix("torch.")
        return self.found(
            "bad",
            f"At `{target.place}` targets of shape {tuple(target.values.shape)} are {kind}, and "
            "the loss takes the index of a class as a whole number: `training_step` fails.",
            "Convert labels to `torch.long` where samples are read.",
            value=target.values.numel(),
            threshold=self.least,
            places=(target.place,),
            window=max(1, target.values.numel()),
        )


def out_of_range(values: Tensor, classes: int) -> Tensor:
    """Return the values that are no index of a class.

    Example:
        >>> from torch import tensor
        >>> out_of_range(tensor([0, 3, -1, 2]), 3)
        tensor([ 3, -1])
    """
    return values[(values < 0) | (values >= classes)]


def _looks(subject: Subject, target: Target) -> list[tuple[Tensor, str]]:
    """Return targets, and where they are: of the step, then of more samples."""
    found = [(target.values, "of a training batch")]
    for stage, name in zip(_STAGES, ("training", "validation"), strict=True):
        try:
            known = labels(subject, target, stage)
        except Unavailable:
            continue
        found.append((known.values, f"of {known.samples:,} samples of {name}"))
    return found
