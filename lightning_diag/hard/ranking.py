"""Which samples of a batch to train on, by the rank of their losses."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Selection = Literal["hardest", "sampled", "random"]
SELECTIONS: tuple[str, ...] = ("hardest", "sampled", "random")


def choose(losses: Tensor, number: int, selection: Selection, generator: torch.Generator) -> Tensor:
    """Return the positions of the samples to train on, in the order of the batch.

    Samples whose loss is NaN, or does not count, come last; equal losses are drawn among.

    Args:
        losses: Of each sample; -inf where its target does not count.
        number: Of samples to choose, at least 1.
        selection: ``hardest``, the highest losses; ``sampled``, without replacement, with the
            chance of a sample growing with the rank r of its loss, from 0 to 1, as
            r^(samples / number - 1), so that drawing each by itself would keep that number;
            ``random``, any.
        generator: On the CPU: losses are not waited for.

    Shape:
        `losses`: ``(samples,)`` -> ``(number,)`` of int64.

    Example:
        >>> losses = torch.tensor([0.1, 2.0, float("nan"), 0.7])
        >>> choose(losses, 2, "hardest", torch.Generator())
        tensor([1, 3])

    References:
        Jiang et al., Accelerating Deep Learning by Focusing on the Biggest Losers, 2019,
        arXiv:1910.00762 (the chance by rank).
        Efraimidis and Spirakis, Weighted random sampling with a reservoir, 2006 (the largest
        u^(1/w) are a draw by weights w).
    """
    samples = len(losses)
    order = torch.randperm(samples, generator=generator).to(losses.device)
    score = losses.detach().float()
    score = score.where(~score.isnan(), torch.full_like(score, -math.inf))
    if selection == "sampled":
        rank = (score.argsort().argsort().double() + 0.5) / samples
        draw = torch.rand(samples, generator=generator, dtype=torch.float64).to(rank.device)
        key = draw.clamp(min=1e-300).log() / rank ** (samples / number - 1)
        score = key.where(score > -math.inf, torch.full_like(key, -math.inf))
    elif selection == "random":
        score = torch.zeros_like(score)
    best = score[order].argsort(descending=True, stable=True)[:number]
    return order[best].sort().values
