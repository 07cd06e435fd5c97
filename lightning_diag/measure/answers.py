"""What a network answers for each sample that has one class, and by what margin (W13)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_diag.measure.base import LossCall

_ROWS = frozenset({"cross_entropy", "nll_loss"})
_BINARY = frozenset({"binary_cross_entropy", "binary_cross_entropy_with_logits"})


class Answers(NamedTuple):
    """Label and answer of the samples of a call: ``(samples,)`` each."""

    given: Tensor
    """Class of the label; the likeliest where labels are soft. Of what is ignored it is -1."""
    predicted: Tensor
    """Class that the network finds likeliest."""
    sure: Tensor
    """Its probability, 0 to 1."""
    margin: Tensor
    """Probability of the label less that of the likeliest other class, -1 to 1."""


def answers(call: LossCall) -> Answers | None:
    """Return what is answered for each sample; None where a sample has no class, or several.

    Margins are those of Pleiss et al. with probabilities in place of logits: logits grow as
    training goes on, and the last epochs, in which wrong labels are learnt by heart, would count
    most.

    Shape:
        Predictions ``(samples, classes)``, or ``(samples,)`` and ``(samples, 1)`` of yes or no.

    Example:
        >>> x, y = torch.tensor([[0.0, 0.0, 9.0], [2.0, 0.0, 0.0]]), torch.tensor([1, 0])
        >>> call = LossCall("cross_entropy#0", "cross_entropy", "loss", 1, x, target=y)
        >>> found = answers(call)
        >>> found.predicted, found.margin
        (tensor([2, 0]), tensor([-0.9996,  0.6805]))

    References:
        Pleiss et al., Identifying Mislabeled Data using the Area Under the Margin Ranking, 2020,
        arXiv:2001.10528.
    """
    return answers_of(call, call.input.detach(), call.target.detach())


def answers_of(call: LossCall, x: Tensor, target: Tensor) -> Answers | None:
    """Return what is answered for some samples of a call, as `answers` does for all.

    Args:
        call: Which loss it is.
        x: Predictions of some samples.
        target: Their targets.
    """
    if x.dim() == 0 or target.dim() == 0 or x.shape[0] != target.shape[0] or x.numel() == 0:
        return None
    with torch.autocast(x.device.type, enabled=False):
        if call.function in _ROWS and x.dim() == 2 and x.shape[1] > 1:
            return _of_classes(call, x.float(), target)
        if call.function in _BINARY and x.shape == target.shape and x[0].numel() == 1:
            return _of_yes_or_no(call, x.float().reshape(-1), target.reshape(-1))
    return None


def _of_classes(call: LossCall, x: Tensor, target: Tensor) -> Answers:
    chances = x.exp() if call.function == "nll_loss" else x.softmax(1)
    if target.is_floating_point():
        given = target.argmax(1)
    else:
        ignored = -100 if call.ignore_index is None else call.ignore_index
        given = target.where(target != ignored, torch.full_like(target, -1)).long()
    best = chances.topk(2, dim=1)
    own = chances.gather(1, given.clamp(min=0)[:, None])[:, 0]
    predicted = best.indices[:, 0]
    other = best.values[:, 0].where(predicted != given, best.values[:, 1])
    return Answers(given, predicted, best.values[:, 0], own - other)


def _of_yes_or_no(call: LossCall, x: Tensor, target: Tensor) -> Answers:
    chance = x.sigmoid() if call.function.endswith("logits") else x
    given, predicted = target > 0.5, chance > 0.5
    distance = 2 * chance - 1
    margin = distance.where(given, -distance)
    return Answers(given.long(), predicted.long(), torch.maximum(chance, 1 - chance), margin)
