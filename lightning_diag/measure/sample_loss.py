"""The loss of each sample of a call, and what was predicted for some of them (W13)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lightning_diag.measure.base import LossCall

_ELEMENTS = 1 << 21
"""Our choice: of larger predictions every n-th row or position is looked at."""
_NUMBERS = 8
"""Our choice: targets of more numbers are told by the share that is right alone."""
_ROWS = frozenset({"cross_entropy", "nll_loss"})
_BINARY = frozenset({"binary_cross_entropy", "binary_cross_entropy_with_logits"})
_DISTANCES = frozenset({"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"})


class SampleLosses(NamedTuple):
    """The losses of the rows of a call that were looked at."""

    losses: Tensor
    """``(rows,)``, -inf where a row's target does not count."""
    every: int
    """Every how-manieth row of the prediction was looked at."""
    prediction: Tensor
    """``(rows, *)``, thinned as the losses are, and detached."""
    target: Tensor
    """``(rows, *)``, as well."""


def sample_losses(call: LossCall) -> SampleLosses | None:
    """Return the loss of each sample, without weights, label smoothing or reduction.

    Where a sample has many positions, such as pixels, it is their mean. None for a loss that is not
    the mean of those of samples, and where prediction and target differ in shape.

    Example:
        >>> x, y = torch.tensor([[0.0, 0.0], [0.0, 9.0]]), torch.tensor([1, 0])
        >>> call = LossCall("cross_entropy#0", "cross_entropy", "loss", 1, x, target=y)
        >>> sample_losses(call).losses
        tensor([0.6931, 9.0001])
    """
    x, target = call.input.detach(), call.target.detach()
    if x.dim() == 0 or target.dim() == 0 or x.shape[0] != target.shape[0] or x.numel() == 0:
        return None
    with torch.autocast(x.device.type, enabled=False):  # the numbers are those of the call
        if call.function in _ROWS:
            return _of_classes(call, x, target) if x.dim() > 1 else None
        if call.function in _BINARY | _DISTANCES and x.shape == target.shape:
            return _of_elements(call, x, target)
    return None


def losses_of_all(call: LossCall) -> Tensor | None:
    """Return the loss of each row of a call as `sample_losses` does, however large it is.

    Shape:
        ``(rows,)``.
    """
    x, target = call.input, call.target
    if x.dim() == 0 or target.dim() == 0 or len(x) != len(target):
        return None
    each, found = max(1, _ELEMENTS // max(1, x[:1].numel())), []
    for begin in range(0, len(x), each):
        part = slice(begin, begin + each)
        some = sample_losses(replace(call, input=x[part], target=target[part]))
        if some is None:
            return None
        found.append(some.losses)
    return torch.cat(found) if found else None


def _exact(x: Tensor) -> Tensor:
    """Return numbers of 16 bits or less, and whole ones, in float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _of_classes(call: LossCall, x: Tensor, target: Tensor) -> SampleLosses:
    step, every = math.ceil(x.numel() / _ELEMENTS), 1
    is_soft = target.is_floating_point()
    if x.dim() > 2:
        x = x.flatten(2)[:, :, ::step]
        target = (target.flatten(2) if is_soft else target.flatten(1))[..., ::step]
    else:
        every, x, target = step, x[::step], target[::step]
    x = _exact(x)
    if is_soft:
        found = functional.cross_entropy(x, target.to(x.dtype), reduction="none")
        losses = found.flatten(1).mean(1) if found.dim() > 1 else found
        return SampleLosses(losses, every, x, target)
    ignored = -100 if call.ignore_index is None else call.ignore_index
    compute = functional.nll_loss if call.function == "nll_loss" else functional.cross_entropy
    found = compute(x, target, ignore_index=ignored, reduction="none")
    if found.dim() == 1:
        return SampleLosses(found.masked_fill(target == ignored, -math.inf), every, x, target)
    counts = (target != ignored).reshape(len(target), -1).sum(1)
    total = found.reshape(len(target), -1).sum(1)
    losses = (total / counts).where(counts > 0, torch.full_like(total, -math.inf))
    return SampleLosses(losses, every, x, target)


def _of_elements(call: LossCall, x: Tensor, target: Tensor) -> SampleLosses:
    step, every = math.ceil(x.numel() / _ELEMENTS), 1
    if x.dim() > 1:
        x, target = x.flatten(1)[:, ::step], target.flatten(1)[:, ::step]
    else:
        every, x, target = step, x[::step, None], target[::step, None]
    x = _exact(x)
    target = target.to(x.dtype)
    if call.function == "binary_cross_entropy":
        # as torch does it, without its check that all are within 0 and 1
        logs = x.log().clamp(min=-100), (1 - x).log().clamp(min=-100)
        found = -target * logs[0] - (1 - target) * logs[1]
    elif call.function == "smooth_l1_loss":
        found = functional.smooth_l1_loss(x, target, beta=call.scale, reduction="none")
    elif call.function == "huber_loss":
        found = functional.huber_loss(x, target, delta=call.scale, reduction="none")
    else:
        found = getattr(functional, call.function)(x, target, reduction="none")
    return SampleLosses(found.mean(1), every, x, target)


class Told(NamedTuple):
    """What some rows were meant to be, and what was predicted: columns of numbers."""

    target: Tensor | None
    """``(rows, numbers)``; None where there are too many."""
    prediction: Tensor | None
    """As many."""
    probability: Tensor | None
    """``(rows,)``: of the class that is predicted."""
    correct: Tensor | None
    """``(rows,)``: share of the positions that are right."""


def told(call: LossCall, found: SampleLosses, rows: Tensor) -> Told:
    """Return target and prediction of some rows.

    Shape:
        `rows`: ``(n,)`` positions among those looked at.
    """
    x, target = found.prediction[rows], found.target[rows]
    if call.function in _ROWS:
        scores = x.exp() if call.function == "nll_loss" else x.softmax(1)
        probability, predicted = scores.max(1)
        meant = target.argmax(1) if target.is_floating_point() else target
        if x.dim() == 2:
            return Told(meant[:, None], predicted[:, None], probability, None)
        ignored = call.ignore_index if call.ignore_index is not None else -100
        counts = (meant != ignored).flatten(1)
        right = (predicted == meant).flatten(1) & counts
        return Told(None, None, None, right.sum(1) / counts.sum(1))
    if call.function in _DISTANCES:
        return Told(target, x, None, None) if x.shape[1] <= _NUMBERS else Told(*[None] * 4)
    scores = x.sigmoid() if call.function.endswith("logits") else x
    if x.shape[1] == 1:
        chance = scores[:, 0]
        return Told(target, (scores > 0.5), torch.maximum(chance, 1 - chance), None)
    if x.shape[1] <= _NUMBERS:
        return Told(target, scores, None, None)
    right = (scores > 0.5) == (target > 0.5)
    return Told(None, None, None, right.float().mean(1))
