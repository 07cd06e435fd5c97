"""`UnshuffledTraining`: training samples in the order of their classes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from lightning_diag.checks.base import Check
from lightning_diag.checks.items import items
from lightning_diag.checks.positions import batch_size, map_loader, order
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.targets import class_target
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.wording import shown

_DRAWN = 4096
"""Positions that are drawn to see whether they are shuffled (our choice)."""


@dataclass(frozen=True)
class UnshuffledTraining(Check):
    """A training loader that goes through the data in order, and data that are sorted by class.

    What it sees:
        The positions that a copy of the sampler draws: they always rise. And, where a loss takes
        one class for each sample, the labels of up to 1,024 samples in the order of their
        positions: the class changes less than `changes` as often as in a drawn order. Loaders of a
        single batch, and unsorted data without shuffling, are no finding.

    Why it matters:
        Batch after batch holds one class: the network learns to answer with it, then with the next
        one. Batch norm sees the statistics of one class. Validation is best for the last class.

    What to do:
        Pass `shuffle=True` to the training loader.

    References:
        Bengio, Practical recommendations for gradient-based training, 2012, arXiv:1206.5533.
    """

    code: ClassVar[str] = "unshuffled-training"
    family: ClassVar[str] = "loader"
    needs: ClassVar[tuple[str, ...]] = ("batch", "copy")

    changes: float = 0.2
    """Changes of class from sample to sample, as a share of those in a drawn order, up to which
    data are sorted, 0 to 1. Our choice: a drawn order of a hundred samples keeps to 0.8 to 1.2."""
    least: float = 10.0
    """Changes that a drawn order must make likely for a verdict, at least 1 (our choice)."""

    def __post_init__(self) -> None:
        self._require("changes", least=0.0, most=1.0)
        self._require("least", least=1.0)

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        if getattr(subject.trainer, "overfit_batches", 0):
            return self.not_observed("`overfit_batches` switches shuffling off on purpose")
        loader = map_loader(subject, "train")
        drawn = order(loader, _DRAWN)
        if len(drawn) <= batch_size(loader) or any(one > other for one, other in pairwise(drawn)):
            return []
        target = class_target(subject)
        read = items(subject, "train")
        found = read.small.get(target.leaf)
        if found is None:
            return self.not_observed("the labels of single samples are not known")
        seen, expected = class_changes(found[torch.tensor(read.positions).argsort(), 0])
        if expected < self.least or seen > self.changes * expected:
            return []
        return self.found(
            "bad",
            f"The training loader does not shuffle, and the samples are sorted by class: of "
            f"{len(found):,} samples in their order the class changes {seen:,} times, where a "
            f"drawn order changes it {shown(expected)} times.",
            "Make the training loader with `torch.utils.data.DataLoader(shuffle=True)`.",
            value=seen,
            threshold=self.changes * expected,
            places=(target.place,),
            window=len(found),
        )


def class_changes(labels: Tensor) -> tuple[int, float]:
    """Return how often a label differs from the one before, and how often it would in any order.

    Example:
        >>> class_changes(torch.tensor([0, 0, 1, 1]))
        (1, 2.0)
    """
    n = labels.numel()
    counts = torch.unique(labels, return_counts=True)[1].double()
    expected = float(n - (counts * counts).sum() / n) if n else 0.0
    return int((labels[1:] != labels[:-1]).sum()), expected
