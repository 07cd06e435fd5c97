"""`ConstantFeature`: features that are the same in every sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lightning_diag.checks.base import Check, Level
from lightning_diag.checks.items import items
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.wording import listing


@dataclass(frozen=True)
class ConstantFeature(Check):
    """Columns of a table, or channels of pictures, that are the same in every sample.

    What it sees:
        Up to 1,024 samples from all over the training data. Of tables (one row of numbers a sample)
        the columns that never change, if they are at least `share` of all; of pictures the channels
        all of whose pixels have one value throughout.

    Why it matters:
        What never changes tells nothing of the target, and acts as a bias. Where it is much of the
        input, something was lost on the way: a wrong column, an empty channel, a division by a
        huge number.

    What to do:
        Look at a few samples before and after each step of their processing; leave out what is
        constant on purpose.

    References:
        Breck et al., Data Validation for Machine Learning, MLSys 2019 (C7).
    """

    code: ClassVar[str] = "constant-feature"
    level: ClassVar[Level] = "full"
    family: ClassVar[str] = "inputs"

    share: float = 0.5
    """Share of a table's columns from which on it counts, above 0 to 1. Our choice: of the pixels
    of MNIST a tenth is never written on, and of rare words a few are missing in 1,024 texts."""
    samples: int = 64
    """Samples that a verdict needs, at least 2. Our choice: what changes in one of twenty is seen
    to change then, with 96 %."""

    def __post_init__(self) -> None:
        self._require("share", least=1e-9, most=1.0)
        self._require("samples", least=2, unit="samples")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        spans = items(subject, "train").spans
        known = {name: span for name, span in spans.items() if span.samples >= self.samples}
        if not known:
            return self.not_observed(f"fewer than {self.samples} samples of one shape were read")
        for name, span in known.items():
            constant = constant_units(span.low, span.high)
            count, units = int(constant.sum()), constant.numel()
            least = self.share * units if span.low.dim() <= 1 else 1
            if units < 2 or count < least:
                continue
            what = "columns" if span.low.dim() <= 1 else "channels"
            which = [str(index) for index in constant.nonzero()[:, 0].tolist()]
            return self.found(
                "note",
                f"In tensor {name!r} of the batch {count:,} of {units:,} {what} have one value in "
                f"all of {span.samples:,} samples: {listing(which)}.",
                "Leave them out, or look for what lost them, with `torch.unique`.",
                value=count,
                threshold=least,
                window=span.samples,
            )
        return []


def constant_units(low: Tensor, high: Tensor) -> Tensor:
    """Return which columns of a row, or channels of a picture, span nothing.

    Shape:
        ``(columns)``, or ``(channels, *)`` -> the first dimension

    Example:
        >>> from torch import tensor
        >>> constant_units(tensor([1.0, 2.0]), tensor([1.0, 3.0]))
        tensor([ True, False])
    """
    if low.dim() < 2:
        return low.reshape(-1) == high.reshape(-1)
    return low.flatten(1).amin(1) == high.flatten(1).amax(1)
