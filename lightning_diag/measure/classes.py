"""Targets, predictions and hits by class, and which classes are taken for which (P29)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lightning_diag.measure.base import Columns, LossCall, Numbers, table
from lightning_diag.measure.confusion import MATRIX, confusion
from lightning_diag.measure.losses import (
    BINARY_LOSSES,
    INDEX_LOSSES,
    LossCallMeasure,
    classes_of,
    count,
    rows_of,
    scalar,
    some,
    targets_of,
)
from lightning_diag.measure.moments import Scalar, plain

_FADE = 15 / 16
"""Our choice: the newest sixteen looks stand for now."""
_RARE = 10.0
"""How many times rarer than the most frequent class a class must be to count as rare: what
SageMaker Debugger calls imbalanced."""
_FEW = 8.0
"""Our choice: targets of rare classes from which on their recall is known to a third."""
COUNTS = ("class/target_count", "class/predicted_count", "class/correct_count")
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
        "confusions": "list: true class, predicted class, targets, for up to 16 pairs; see "
        "`measure/confusion.py`",
    }

    def observe(self, call: LossCall) -> Columns | None:
        """See `LossCallMeasure.observe`.

        Shape:
            ``(*)`` -> sums ``(1, 4 + n)``, maxima ``(1, 0)``: rows, hits, undecided targets,
            and whether what follows is the confusion matrix, with a row for each true class. Of
            more than 64 classes the three counts of each follow instead, of more than 256 nothing.
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
    ignored = None if call.target.is_floating_point() else call.ignore_index
    return _counted(target, predicted, ignored, number, 0.0)


def _by_element(call: LossCall) -> Columns | None:
    if call.input.shape != call.target.shape:
        return None
    threshold = 0.5 if call.function == "binary_cross_entropy" else 0.0
    values = some(call.target)
    low = -1 if call.function == "soft_margin_loss" else 0
    undecided = count((values != low) & (values != 1))
    target = (values > (low + 1) / 2).long()
    predicted = (some(plain(call.input)) > threshold).long()
    return _counted(target, predicted, None, 2, undecided)


def _counted(
    target: Tensor, predicted: Tensor, ignored: int | None, classes: int, undecided: Scalar
) -> Columns:
    """Count by class, but for targets that are `ignored`."""
    if classes > CLASSES:
        rows, hits = _right(target, predicted, ignored)
        return _columns((rows, hits, undecided, 0.0), [], target.device)
    matrix = confusion(target, predicted, classes, ignored)
    targets, guesses, hits = matrix.sum(1), matrix.sum(0), matrix.diagonal()
    is_kept = classes <= MATRIX
    head = (scalar(targets.sum()), scalar(hits.sum()), undecided, float(is_kept))
    return _columns(head, [matrix] if is_kept else [targets, guesses, hits], target.device)


def _right(target: Tensor, predicted: Tensor, ignored: int | None) -> tuple[Scalar, Scalar]:
    """Count targets that are not `ignored`, and those of them that were predicted."""
    if ignored is None:
        return float(len(target)), count(target == predicted)
    valid = target != ignored
    return count(valid), count((target == predicted) & valid)


def _columns(first: Sequence[Scalar], kept: Sequence[Tensor], device: torch.device) -> Columns:
    head = table([first], device)
    tail = [part.to(head.dtype).reshape(1, -1) for part in kept]
    return Columns(torch.cat([head, *tail], 1), head.new_zeros(1, 0))


def accuracy(sums: Tensor) -> float | None:
    """Return the share of hits in joined columns of `ClassMeasure`, None where there is none."""
    rows, hits, undecided = sums[0, :3].tolist()
    return hits / rows if rows > 0 and not undecided else None


def counts(sums: Tensor) -> dict[str, list[float]]:
    """Return the counts by class in joined columns of `ClassMeasure`, {} where there are none."""
    if sums.shape[1] == 4 or sums[0, 2] > 0 or sums[0, 0] == 0:
        return {}
    matrix = confusions(sums)
    if matrix is None:
        rows = sums[0, 4:].view(3, -1).tolist()
    else:
        rows = [x.tolist() for x in (matrix.sum(1), matrix.sum(0), matrix.diagonal())]
    return dict(zip(COUNTS, rows, strict=True))


def confusions(sums: Tensor) -> Tensor | None:
    """Return the confusion matrix in joined columns of `ClassMeasure`, None if there is none."""
    return sums[0, 4:].view(math.isqrt(sums.shape[1] - 4), -1) if sums[0, 3] > 0 else None


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
