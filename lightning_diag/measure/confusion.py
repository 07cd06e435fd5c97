"""Which classes are taken for which (P29)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from lightning_diag.measure.moments import wide

MATRIX = 64
"""Our choice: of more classes it is not kept which is taken for which: 4,096 numbers join ranks."""
_PAIRS = 16
"""Our choice: of pairs of classes, those confused most often are kept."""
_LOOKS = 8
"""Our choice: looks that one list of these is of."""


def confusion(target: Tensor, predicted: Tensor, classes: int, ignored: int | None) -> Tensor:
    """Count how often each class was predicted for each, without those `ignored`.

    What is ignored, which may be any number, counts as one more class that is cut off: to leave it
    out would wait for the device.

    Shape:
        ``(rows,)``, ``(rows,)`` -> ``(classes, classes)``, true by predicted.

    Example:
        >>> confusion(torch.tensor([0, 1, 1, -100]), torch.tensor([0, 0, 1, 1]), 2, -100)
        tensor([[1, 0],
                [1, 1]])
    """
    size, target = classes, target.long()
    if ignored is not None:
        size += 1
        target = torch.where(target == ignored, classes, target)
    if target.device.type == "cpu" and not torch.are_deterministic_algorithms_enabled():
        matrix: Tensor = multiclass_confusion_matrix(predicted, target, size, validate_args=False)
    else:
        matrix = scattered(target, predicted, size)
    return matrix[:classes, :classes]


def scattered(target: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Count like torchmetrics, without waiting for a device.

    torchmetrics has torch count bins, which waits to know how many there are; where algorithms
    must be deterministic it compares each row with each bin.

    Shape:
        ``(rows,)``, ``(rows,)`` -> ``(classes, classes)``.
    """
    dtype, device = wide(target.device), target.device
    pairs = target * classes + predicted
    bins = torch.zeros(classes * classes, dtype=dtype, device=device)
    ones = torch.ones(pairs.shape, dtype=dtype, device=device)
    return bins.scatter_add_(0, pairs, ones).view(classes, classes)


class ConfusionPool:
    """Confusion matrices of eight looks, added up, of which the pairs confused most often are told.

    Example:
        >>> pool = ConfusionPool()
        >>> for _ in range(8):
        ...     pool.add(torch.tensor([[5.0, 2.0], [1.0, 5.0]]))
        >>> pool.told()
        [0.0, 1.0, 16.0, 1.0, 0.0, 8.0]
    """

    def __init__(self) -> None:
        self.looks = 0
        self.matrix = torch.zeros(0, 0, dtype=torch.float64, device="cpu")

    def add(self, matrix: Tensor) -> None:
        """Take in the confusion matrix of one look, on the host."""
        if matrix.shape != self.matrix.shape:
            self.looks, self.matrix = 0, torch.zeros_like(matrix)
        self.looks += 1
        self.matrix = self.matrix + matrix

    def told(self) -> list[float] | None:
        """Return true class, predicted class and targets of each pair, and begin anew.

        None before eight looks are done.
        """
        if self.looks < _LOOKS:
            return None
        wrong = self.matrix - torch.diag(self.matrix.diagonal())
        counts, places = wrong.flatten().sort(descending=True, stable=True)
        pairs = zip(counts[:_PAIRS].tolist(), places[:_PAIRS].tolist(), strict=True)
        width = len(wrong)
        self.looks, self.matrix = 0, torch.zeros_like(wrong)
        return [
            float(number)
            for count, place in pairs
            if count > 0
            for number in (*divmod(place, width), count)
        ]

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"looks": self.looks, "matrix": self.matrix.tolist()}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> ConfusionPool:
        """Return the pool that `state` was taken of."""
        pool = cls()
        pool.looks = int(state["looks"])
        pool.matrix = torch.tensor(state["matrix"], dtype=torch.float64, device="cpu")
        return pool
