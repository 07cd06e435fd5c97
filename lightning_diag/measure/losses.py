"""What measures of loss calls share: kinds of losses, and which part of a call is looked at."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from lightning_diag.measure.base import Call, CallMeasure, Columns, LossCall
from lightning_diag.measure.moments import Scalar

INDEX_LOSSES = frozenset({"cross_entropy", "nll_loss", "multi_margin_loss"})
"""Losses whose target is the index of a class."""
LAST_LOSSES = frozenset({"kl_div", "ctc_loss"})
"""Losses of logarithms of probabilities over the last dimension."""
ROW_LOSSES = INDEX_LOSSES | LAST_LOSSES
"""Losses whose prediction is one distribution, or score of each class, a sample."""
COMPARING_LOSSES = frozenset(
    {
        "triplet_margin_loss",
        "triplet_margin_with_distance_loss",
        "cosine_embedding_loss",
        "margin_ranking_loss",
    }
)
"""Losses of what samples have to do with each other: embeddings, or scores that rank them."""
BINARY_LOSSES = frozenset(
    {
        "binary_cross_entropy",
        "binary_cross_entropy_with_logits",
        "soft_margin_loss",
        "multilabel_soft_margin_loss",
    }
)
"""Losses whose target is yes or no for each element."""
REGRESSION_LOSSES = frozenset({"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"})
"""Losses of how far a prediction is from its target."""
_ELEMENTS = 65_536
_SINGLE = 16_384
"""Our choice: of larger predictions every n-th row is looked at, or every n-th element where a loss
is of single ones. That leaves an error of each share below 0.4 %."""


def stride_of(elements: int, most: int = _ELEMENTS) -> int:
    """Return how many to step, to look at `most` elements or a few more.

    Example:
        >>> stride_of(100, 50), stride_of(10, 50)
        (2, 1)
    """
    return max(1, elements // most)


def rows_of(x: Tensor, class_dim: int = 1, most: int = _ELEMENTS) -> Tensor:
    """Return predictions as one row a sample, position or token.

    Shape:
        ``(classes,)``, ``(batch, classes)`` or ``(batch, classes, *)`` -> ``(rows, classes)``, with
        every n-th row if there are more than `most` elements.
    """
    if x.dim() <= 1:
        return x.reshape(1, -1)
    dim = class_dim % x.dim()
    step = stride_of(x.numel(), max(most, 64 * x.shape[dim]))
    if x.dim() > 2 and dim == 1:
        return x.flatten(2)[:, :, ::step].movedim(1, -1).flatten(0, 1)
    return x.flatten(0, -2)[::step]


def targets_of(target: Tensor, x: Tensor) -> Tensor:
    """Return the targets of the rows that ``rows_of(x)`` has: their classes.

    Shape:
        ``()``, ``(batch,)`` or ``(batch, *)`` classes, or probabilities like `x` -> ``(rows,)``.
    """
    if target.is_floating_point() and target.dim() == x.dim():
        return rows_of(target).argmax(1)
    if x.dim() <= 1:
        return target.reshape(-1)
    step = stride_of(x.numel(), max(_ELEMENTS, 64 * x.shape[1]))
    if x.dim() > 2:
        return target.flatten(1)[:, ::step].flatten()
    return target[::step]


def some(x: Tensor) -> Tensor:
    """Return at most about 16,384 elements of `x`, evenly spread.

    Shape:
        ``(*)`` -> ``(n,)``.
    """
    step = stride_of(x.numel(), _SINGLE)
    return x.reshape(-1)[::step] if step > 1 else x.reshape(-1)


def count(condition: Tensor) -> Scalar:
    """Return how often a condition holds."""
    number = torch.count_nonzero(condition)
    return float(number.item()) if number.device.type == "cpu" else number


def scalar(x: Tensor) -> Scalar:
    """Return a 0-dim tensor's value, as a float if it is on the host."""
    return float(x.item()) if x.device.type == "cpu" else x


class LossCallMeasure(CallMeasure):
    """A measure of the calls of loss functions.

    Args:
        due: Whether to look at the forward pass that begins.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"loss"})

    def __init__(self, due: Callable[[], bool] = lambda: True) -> None:
        self._due = due

    def is_due(self) -> bool:
        """See `CallMeasure.is_due`."""
        return self._due()

    def after(self, call: Call) -> Columns | None:
        """Look at a call that returned."""
        if not isinstance(call, LossCall) or call.output is None:
            return None
        tensors = (call.input, call.target)
        if any(x.is_complex() or x.layout != torch.strided for x in tensors):
            return None
        return self.observe(call) if call.input.numel() else None

    @abstractmethod
    def observe(self, call: LossCall) -> Columns | None:
        """Look at prediction, target and loss; None where there is nothing of this kind."""


def classes_of(call: LossCall) -> int:
    """Return the number of classes that a call tells apart, 0 if it tells none."""
    if call.function in INDEX_LOSSES:
        return call.input.shape[min(1, call.input.dim() - 1)] if call.input.dim() else 0
    return 2 if call.function in BINARY_LOSSES else 0
