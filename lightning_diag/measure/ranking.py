"""What samples are ranked by, besides their loss: confident mistakes, and classes (W13)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_diag.measure.answers import Answers, answers_of
from lightning_diag.measure.base import LossCall
from lightning_diag.measure.sample_loss import SampleLosses

LOSS, MISTAKES, BY_CLASS = "worst", "mistakes", "by_class"
"""Lists of samples, by their names in the history."""
MOST_CLASSES = 16
"""Our choice: classes whose worst samples are kept, the first ones."""


def severity(losses: Tensor) -> Tensor:
    """Return losses with NaN above all."""
    return losses.nan_to_num(math.inf, math.inf, -math.inf)


class Ranked:
    """The samples of a call, ranked in several ways.

    Example:
        >>> from lightning_diag.measure.sample_loss import sample_losses
        >>> x, y = torch.tensor([[0.0, 3.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 0])
        >>> call = LossCall("cross_entropy#0", "cross_entropy", "loss", 1, x, target=y)
        >>> ranked = Ranked(call, sample_losses(call))
        >>> ranked.mistakes()
        tensor([0.9526,   -inf, 0.7311])
        >>> ranked.of_class(1)
        tensor([-inf, -inf, -inf])
    """

    def __init__(self, call: LossCall, found: SampleLosses) -> None:
        self._losses = found.losses
        self._answers: Answers | None = answers_of(call, found.prediction, found.target)
        self.classes = 0
        """Classes that the call tells apart, 0 if samples have no single one."""
        if self._answers is not None:
            self.classes = found.prediction.shape[1] if found.prediction.dim() > 1 else 2
            self.classes = max(2, self.classes)

    def mistakes(self) -> Tensor | None:
        """Return how sure wrong answers are, -inf for right ones; None without classes."""
        if self._answers is None:
            return None
        given, predicted, sure, _ = self._answers
        is_wrong = (given >= 0) & (given != predicted) & ~sure.isnan()
        return sure.where(is_wrong, torch.full_like(sure, -math.inf))

    def of_class(self, label: int) -> Tensor | None:
        """Return the losses of a class, -inf for others; None without classes."""
        if self._answers is None:
            return None
        losses = severity(self._losses)
        return losses.where(self._answers.given == label, torch.full_like(losses, -math.inf))
