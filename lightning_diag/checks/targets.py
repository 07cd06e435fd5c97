"""The classes that a loss is asked for, and how often each split has them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_diag.checks.data import Unavailable
from lightning_diag.checks.given import seen_inputs
from lightning_diag.checks.items import items
from lightning_diag.checks.positions import Stage
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.target_watch import Target


@dataclass(frozen=True)
class Labels:
    """The labels of some samples of a split."""

    values: Tensor
    """``(labels,)``, int64; those that do not count are left out."""
    samples: int
    """Samples that they are of."""
    is_all: bool
    """Whether these are all samples of the split."""
    population: int
    """Samples of the split."""

    def counts(self, classes: int) -> Tensor:
        """Return how often each class occurs; labels that are no class are left out."""
        known = self.values[(self.values >= 0) & (self.values < classes)]
        return torch.bincount(known, minlength=classes)


def labels(subject: Subject, target: Target, stage: Stage) -> Labels:
    """Return the labels of samples from all over a split.

    Raises:
        Unavailable: If they are not known.
    """
    read = items(subject, stage)
    found = read.small.get(target.leaf)
    if found is None:
        raise Unavailable("the labels of single samples are not known")
    values = target.counted(found).long()
    return Labels(values, len(found), read.is_all, len(read.population))


def class_target(subject: Subject) -> Target:
    """Return the first target that is one class for each sample, and stands in the batch.

    Raises:
        Unavailable: If there is none.
    """
    seen = seen_inputs(subject)
    for target in seen.targets:
        if target.leaf and target.is_index and target.is_single and target.classes > 1:
            return target
    why = "no loss was seen whose targets are one class for each sample"
    raise Unavailable(seen.failed if seen.failed and not seen.targets else why)
