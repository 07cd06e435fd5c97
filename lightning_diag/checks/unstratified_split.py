"""`UnstratifiedSplit`: splits in which classes have other shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_diag.checks.base import Check
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.targets import class_target, labels
from lightning_diag.finding import Finding, NotObserved

_EXPECTED = 5.0
"""Labels that must be expected of a class in each split, as usual for a chi-squared test; rarer
classes are put together."""
_EVEN = 2.0
"""Largest over smallest class count up to which validation is balanced (our choice)."""


@dataclass(frozen=True)
class UnstratifiedSplit(Check):
    """Classes whose shares in validation are not those in training.

    What it sees:
        The labels of up to 1,024 samples from all over each split, where a loss takes one class for
        each sample. The shares count if they differ by at least `distance`, half of the sum of all
        differences, and if a chi-squared test of both splits gives less than `chance`. It is a note
        where validation is balanced: mostly that was made so. Samplers and weights are not looked
        at: the splits count.

    Why it matters:
        Validation then tells how the network fares on another mixture: its loss and accuracy move
        with the shares, not with the network, and a bias that training's frequencies taught counts
        as error.

    What to do:
        Split class by class, so that each split has the same share of each; or report the recall of
        each class.

    References:
        Kohavi, A Study of Cross-Validation and Bootstrap, IJCAI 1995: stratified splits (T6).
    """

    code: ClassVar[str] = "unstratified-split"
    family: ClassVar[str] = "labels"
    needs: ClassVar[tuple[str, ...]] = ("batch", "validation", "copy")

    distance: float = 0.1
    """Total variation between the shares from which on it counts, 0 to 1. Our choice: accuracy may
    move by as much, and a drawn split of a thousand samples and ten classes differs by 0.04."""
    chance: float = 1e-6
    """Probability below which chance did not do it, 0 to 1. Our choice: one false alarm in a
    million sets of data."""

    def __post_init__(self) -> None:
        self._require("distance", "chance", least=0.0, most=1.0)

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        target = class_target(subject)
        ours, theirs = (
            labels(subject, target, stage).counts(target.classes).double()
            for stage in ("train", "validation")
        )
        if not ours.sum() or not theirs.sum():
            return self.not_observed("no labels were read")
        shares = ours / ours.sum(), theirs / theirs.sum()
        difference = shares[1] - shares[0]
        distance = float(difference.abs().sum() / 2)
        if distance < self.distance or chance_of(ours, theirs) >= self.chance:
            return []
        most = int(difference.abs().argmax())
        seen = theirs[theirs > 0]
        is_even = bool(seen.max() <= _EVEN * seen.min()) and bool((theirs > 0).equal(ours > 0))
        return self.found(
            "note" if is_even else "suspect",
            f"The classes' shares in training and validation differ by {distance:.2g} (threshold "
            f"{self.distance:g}; `{target.place}`, {int(ours.sum()):,} and {int(theirs.sum()):,} "
            f"samples): class {most} has {float(shares[0][most]):.1%} of training and "
            f"{float(shares[1][most]):.1%} of validation.",
            "Split class by class: `torch.utils.data.Subset` takes the positions. If validation is "
            "balanced on purpose, judge by the recall of each class.",
            value=distance,
            threshold=self.distance,
            places=(target.place,),
            window=int(theirs.sum()),
        )


def chance_of(one: Tensor, other: Tensor) -> float:
    """Return how often two draws from the same classes differ as much: a chi-squared test.

    Classes of which fewer than five are expected in a split are put together.

    Shape:
        ``(classes)`` counts, both

    Example:
        >>> round(chance_of(torch.tensor([30.0, 20.0]), torch.tensor([20.0, 30.0])), 4)
        0.0455
    """
    both = torch.stack([one, other]).double()
    total = both.sum()
    expected = both.sum(1, keepdim=True) * both.sum(0, keepdim=True) / total
    is_rare = expected.amin(0) < _EXPECTED
    rest = both[:, is_rare].sum(1, keepdim=True)
    table = torch.cat([both[:, ~is_rare], rest], 1)
    expected = table.sum(1, keepdim=True) * table.sum(0, keepdim=True) / total
    table, expected = (x[:, table.sum(0) > 0] for x in (table, expected))
    degrees = table.shape[1] - 1
    if degrees < 1:
        return 1.0
    statistic = ((table - expected).square() / expected).sum()
    half = torch.tensor(degrees / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(half, statistic / 2))
