"""How low a loss can be for given samples, and how low for an answer that does not look at them."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lightning_diag.checks.few import samples_of, tensors
from lightning_diag.checks.initial_loss import again
from lightning_diag.checks.losses import SeenLoss

_CLASSES = frozenset({"cross_entropy", "nll_loss"})
_YES_OR_NO = frozenset({"binary_cross_entropy", "binary_cross_entropy_with_logits"})
_NUMBERS = frozenset({"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"})
KNOWN = _CLASSES | _YES_OR_NO | _NUMBERS
"""Losses whose floor is known."""
_LEAST = 1e-12


def best_loss(seen: SeenLoss, groups: Tensor) -> float:
    """Return the loss of the best answer that is the same for all samples of a group.

    Soft targets, targets that count less, and samples that contradict each other leave a floor
    above zero. For the mean absolute error it is that of the mean, and a bit too high.

    Args:
        seen: The call; one of `KNOWN`.
        groups: Group of each sample, or of each position of each sample, from 0 on.

    Shape:
        ``(samples,)`` or ``(samples, positions)``.

    Example:
        >>> from lightning_diag.checks.losses import LossCatch
        >>> with LossCatch({}) as catch:
        ...     _ = functional.mse_loss(torch.zeros(2), torch.tensor([1.0, 3.0]))
        >>> best_loss(catch.seen[0], torch.tensor([0, 0])), best_loss(
        ...     catch.seen[0], torch.tensor([0, 1]))
        (1.0, 0.0)
    """
    seen = _fitted(seen)
    answer = _best(seen, groups)
    return math.nan if answer is None else again(seen, answer)


def _fitted(seen: SeenLoss) -> SeenLoss:
    """Return the call with targets of the prediction's shape, as was meant where they differ."""
    prediction, target = seen.call.input, seen.call.target
    is_each = seen.function in _NUMBERS | _YES_OR_NO
    if not is_each or target.shape == prediction.shape or target.numel() != prediction.numel():
        return seen
    call = copy.copy(seen.call)
    call.target = target.reshape(prediction.shape)
    return replace(seen, call=call)


def _best(seen: SeenLoss, groups: Tensor) -> Tensor | None:
    if seen.function in _CLASSES:
        return _best_scores(seen, groups)
    prediction, target = seen.call.input.float(), seen.call.target
    try:
        target = target.expand_as(prediction)
    except RuntimeError:
        return None
    mean = _by_group(target.float().reshape(len(target), -1, 1), groups)
    if mean is None:
        return None
    mean = mean.reshape(prediction.shape)
    if seen.function != "binary_cross_entropy_with_logits":
        return mean
    weight = seen.given.get("pos_weight")
    odds = (mean / (1 - mean).clamp(min=_LEAST)).clamp(_LEAST, 1 / _LEAST)
    return (odds if weight is None else odds * weight).log()


def _best_scores(seen: SeenLoss, groups: Tensor) -> Tensor | None:
    wanted = _distribution(seen)
    if wanted is None:
        return None
    rows = wanted.movedim(1, -1)
    mean = _by_group(rows.reshape(len(rows), -1, rows.shape[-1]), groups)
    if mean is None:
        return None
    mean = mean / mean.sum(-1, keepdim=True).clamp(min=_LEAST)
    return mean.reshape(rows.shape).movedim(-1, 1).clamp(min=_LEAST).log()


def _distribution(seen: SeenLoss) -> Tensor | None:
    """Return how much each class counts, of the prediction's shape; nothing where it is ignored."""
    prediction, target = seen.call.input, seen.call.target
    if prediction.dim() < 2:
        return None
    weight = seen.given.get("weight")
    if target.is_floating_point():
        wanted = target.float()
    else:
        ignored = seen.call.ignore_index
        counts = torch.ne(target, -100 if ignored is None else ignored)
        kept = target.where(counts, torch.zeros_like(target)).long()
        classes = prediction.shape[1]
        if kept.numel() and not 0 <= int(kept.min()) <= int(kept.max()) < classes:
            return None
        wanted = functional.one_hot(kept, classes).movedim(-1, 1) * counts[:, None]
        wanted = wanted.float()
    if wanted.shape != prediction.shape or weight is None:
        return wanted if wanted.shape == prediction.shape else None
    counted: Tensor = wanted * weight.float().reshape(1, -1, *[1] * (wanted.dim() - 2))
    return counted


def _by_group(rows: Tensor, groups: Tensor) -> Tensor | None:
    """Return each row's mean over its group.

    Shape:
        ``(samples, positions, numbers)`` or ``(samples * positions, 1, numbers)``, likewise.
    """
    samples = len(groups)
    if not samples or len(rows) % samples:
        return None
    flat = rows.reshape(samples, -1, rows.shape[-1])
    positions = flat.shape[1]
    if groups.dim() == 1:
        groups = groups[:, None] * positions + torch.arange(positions, device=groups.device)
    if groups.shape[1] != positions:
        return None
    key = groups.reshape(-1).to(rows.device)
    size = int(key.max()) + 1
    total = flat.new_zeros(size, flat.shape[-1]).index_add_(0, key, flat.flatten(0, 1))
    count = flat.new_zeros(size).index_add_(0, key, flat.new_ones(len(key)))
    return (total / count[:, None].clamp(min=1))[key].reshape(rows.shape)


def groups_of(batch: Any, target: Tensor) -> list[Tensor]:
    """Return which samples, and which positions of sequences, have the same inputs.

    Positions are told apart by the words before them, which is all that a language model sees.

    Example:
        >>> x, y = torch.tensor([[1.0], [2.0], [1.0]]), torch.tensor([0, 1, 1])
        >>> [each.tolist() for each in groups_of([x, y], y)]
        [[0, 1, 0]]
    """
    size = samples_of(batch)
    if size is None:
        return []
    inputs = [t for t in tensors(batch) if t.dim() and not _is_target(t, target)]
    if not inputs:
        return [torch.arange(size)]
    rows = torch.cat([t.reshape(size, -1).double().cpu() for t in inputs], 1)
    found = [torch.unique(rows, dim=0, return_inverse=True)[1]]
    for words in inputs:
        if words.dim() == 2 and not words.is_floating_point():
            found += _by_prefix(words.cpu(), target.numel() // size)
    return found


def _is_target(tensor: Tensor, target: Tensor) -> bool:
    if tensor.numel() != target.numel():
        return False
    return bool((tensor.reshape(-1).double() == target.reshape(-1).double()).all())


def _by_prefix(words: Tensor, positions: int) -> list[Tensor]:
    if not 1 < positions <= words.shape[1]:
        return []
    known, columns = torch.zeros(len(words), dtype=torch.long), []
    for position in range(positions):
        both = torch.stack([known, words[:, position].long()], 1)
        known = torch.unique(both, dim=0, return_inverse=True)[1]
        columns.append(known + position * len(words))
    return [torch.stack(columns, 1)]


def together(groups: Sequence[Tensor]) -> Tensor | None:
    """Return a single group for all samples: the answer that does not look at its inputs."""
    return torch.zeros(len(groups[0]), dtype=torch.long) if groups else None
