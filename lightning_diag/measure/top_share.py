"""The share of a loss that its highest samples carry, from columns that add up (H1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_diag.measure.moments import wide

SHARE = 0.1
"""Our choice: the samples with the highest loss, a tenth of all."""
BINS = 64
_LOWEST = -32
"""Losses are counted by octave, from 2^-33 to 2^31: sums of bins add up over micro-batches and
ranks, which shares of sorted losses do not."""
_SAMPLES = 16_384
"""Our choice: of more samples every n-th is looked at."""


def octaves(losses: Tensor) -> Tensor:
    """Return how many samples lie in each octave, how much loss, and how much squared.

    Args:
        losses: ``(samples,)``; what is below 0 or not finite is left out.

    Shape:
        ``(samples,)`` -> ``(3 * 64,)``: counts, sums, sums of squares.
    """
    step = -(-losses.numel() // _SAMPLES)
    found = losses[::step] if step > 1 else losses
    counts = found.isfinite() & (found >= 0)
    found = found.where(counts, torch.zeros_like(found)).to(wide(losses.device))
    octave = torch.frexp(found).exponent.clamp(_LOWEST, _LOWEST + BINS - 1)
    octave = octave.where(found > 0, torch.full_like(octave, _LOWEST))
    bins = torch.arange(_LOWEST, _LOWEST + BINS, device=found.device)
    member = ((octave[:, None] == bins) & counts[:, None]).to(found.dtype)
    return torch.cat([member.sum(0), found @ member, found.square() @ member])


def top_share(columns: Tensor, share: float = SHARE) -> Tensor:
    """Return the share of the loss that the samples with the highest loss carry.

    Where only a part of an octave is among them, its losses are taken to be spread evenly, as wide
    as their standard deviation says.

    Args:
        columns: What `octaves` returned, added up.
        share: Of the samples, 0 to 1.

    Returns:
        `share` (all losses alike) to 1 (the others have none); NaN where there is no loss.

    Shape:
        ``(*, 3 * 64)`` -> ``(*)``.

    Example:
        >>> losses = torch.cat([torch.full((90,), 0.1), torch.full((10,), 9.0)])
        >>> top_share(octaves(losses))  # 90 of 99
        tensor(0.9091)
    """
    counts, sums, squares = (part.flip(-1).double() for part in columns.split(BINS, -1))
    wanted = share * counts.sum(-1, keepdim=True)
    before = counts.cumsum(-1) - counts
    part = ((wanted - before) / counts.clamp(min=1)).clamp(0, 1)
    held = counts.clamp(min=1)
    mean = sums / held
    deviation = (squares / held - mean.square()).clamp(min=0).sqrt()
    mean_of_part = mean + math.sqrt(3) * deviation * (1 - part)
    found: Tensor = (part * counts * mean_of_part).sum(-1) / sums.sum(-1)
    return found.to(torch.float32)
