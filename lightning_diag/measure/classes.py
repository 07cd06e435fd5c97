"""Targets, predictions and hits by class (P29)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lightning_diag.measure.base import Columns, LossCall, Numbers, table
from lightning_diag.measure.losses import (
    BINARY_LOSSES,
    INDEX_LOSSES,
    LossCallMeasure,
    classes_of,
    count,
    rows_of,
    some,
    targets_of,
)
from lightning_diag.measure.moments import Scalar, plain, wide

_FADE = 15 / 16
"""Our choice: the newest sixteen looks stand for now."""
_RARE = 10.0
"""How many times rarer than the most frequent class a class must be to count as rare: what
SageMaker Debugger calls imbalanced."""
_FEW = 8.0
"""Our choice: targets of rare classes from which on their recall is known to a third."""
CLASSES = 256
"""Our choice: of more classes no figures are kept one by one."""


class ClassMeasure(LossCallMeasure):
    """Targets, predictions and hits by class.

    For losses of the index of a class: the class with the largest output. For losses of yes or no:
    two classes, over all elements; only where all targets are one or the other.
    """

    name: ClassVar[str] = "class"
    outputs: ClassVar[dict[str, str]] = {
        "target_count": "list: targets of each class in the step",
        "predicted_count": "list: predictions of each class in the step",
        "correct_count": "list: targets of each class that were predicted",
    }

    def observe(self, call: LossCall) -> Columns | None:
        """See `LossCallMeasure.observe`.

        Shape:
            ``(*)`` -> sums ``(1, 4 + 3 * classes)``, maxima ``(1, 0)``: rows, hits, undecided
            targets, classes, then the counts, without which there are more than 256 classes.
        """
        if call.function in INDEX_LOSSES:
            return _by_index(call)
        return _by_element(call) if call.function in BINARY_LOSSES else None

    def summarise(self, places: Sequence[str], sums: Tensor, maxima: Tensor) -> Numbers:
        """Return nothing: see `accuracy` and `counts`."""
        return {}


def _by_index(call: LossCall) -> Columns | None:
    if not call.input.dim():
        return None
    x = plain(call.input)
    predicted = rows_of(x).argmax(1)
    target = targets_of(call.target, x)
    if target.shape != predicted.shape:
        return None
    number = classes_of(call)
    valid = torch.ones_like(target, dtype=wide(x.device))
    if call.ignore_index is not None and not call.target.is_floating_point():
        valid = (target != call.ignore_index).to(valid.dtype)
    return _counted(target, predicted, valid, number, 0.0)


def _by_element(call: LossCall) -> Columns | None:
    if call.input.shape != call.target.shape:
        return None
    threshold = 0.5 if call.function == "binary_cross_entropy" else 0.0
    values = some(call.target)
    low = -1 if call.function == "soft_margin_loss" else 0
    undecided = count((values != low) & (values != 1))
    target = (values > (low + 1) / 2).long()
    predicted = (some(plain(call.input)) > threshold).long()
    valid = torch.ones_like(target, dtype=wide(target.device))
    return _counted(target, predicted, valid, 2, undecided)


def _counted(
    target: Tensor, predicted: Tensor, valid: Tensor, classes: int, undecided: Scalar
) -> Columns:
    """Count by class; `valid` is 1 where a target counts and 0 where it does not."""
    correct = (target == predicted).to(valid.dtype) * valid
    device = target.device
    kept = classes <= CLASSES
    head = table([(valid.sum(), correct.sum(), undecided, float(classes))], device)
    if not kept:
        return Columns(head, head.new_zeros(1, 0))
    target = target.clamp(0, classes - 1)  # what is ignored may be any number, and counts 0
    counts = torch.zeros(3, classes, dtype=valid.dtype, device=device)
    counts[0].scatter_add_(0, target, valid)
    counts[1].scatter_add_(0, predicted, valid)
    counts[2].scatter_add_(0, target, correct)
    return Columns(torch.cat([head, counts.view(1, -1)], 1), head.new_zeros(1, 0))


def accuracy(sums: Tensor) -> float | None:
    """Return the share of hits in joined columns of `ClassMeasure`, None where there is none."""
    rows, hits, undecided = sums[0, :3].tolist()
    return hits / rows if rows > 0 and not undecided else None


def counts(sums: Tensor) -> dict[str, list[float]]:
    """Return the counts by class in joined columns of `ClassMeasure`, {} where there are none."""
    if sums.shape[1] == 4 or sums[0, 2] > 0 or sums[0, 0] == 0:
        return {}
    rows = sums[0, 4:].view(3, -1).tolist()
    return {f"class/{name}": row for name, row in zip(ClassMeasure.outputs, rows, strict=True)}


class ClassPool:
    """Counts by class over the newest looks: an older look counts less and less.

    Example:
        >>> pool = ClassPool()
        >>> pool.add({"class/target_count": [81.0, 9.0], "class/correct_count": [81.0, 0.0]})
        >>> pool.numbers()
        {'class/imbalance': 8.2, 'class/majority_share': 0.9}
    """

    def __init__(self) -> None:
        self.targets: list[float] = []
        self.hits: list[float] = []

    def add(self, lists: Mapping[str, Sequence[float]]) -> None:
        """Take in the counts of one look."""
        new = (lists["class/target_count"], lists["class/correct_count"])
        if len(new[0]) != len(self.targets):
            self.targets, self.hits = [0.0] * len(new[0]), [0.0] * len(new[0])
        self.targets = [_FADE * old + more for old, more in zip(self.targets, new[0], strict=True)]
        self.hits = [_FADE * old + more for old, more in zip(self.hits, new[1], strict=True)]

    def numbers(self) -> dict[str, float]:
        """Return what the counts say, {} without any target."""
        seen = [count for count in self.targets if count > 0]
        if not seen:
            return {}
        limit = max(seen) / _RARE
        pairs = zip(self.targets, self.hits, strict=True)
        rare = [(targets, hits) for targets, hits in pairs if 0 < targets <= limit]
        number = sum(targets for targets, _ in rare)
        # one more of each, lest a class with half a target pass for very rare
        found = {
            "class/imbalance": (max(seen) + 1) / (min(seen) + 1),
            "class/majority_share": max(seen) / sum(seen),
        }
        if number >= _FEW:
            found["class/rare_recall"] = sum(hits for _, hits in rare) / number
        return found
