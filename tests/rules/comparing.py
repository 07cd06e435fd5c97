"""Losses of pairs, triplets, ranks and sequences, for small trainings on the digits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from rules.remedies import Training, adam, one_hot, sgd

MARGIN = 0.2
"""FaceNet's."""


def hard_triplets(out: Tensor, y: Tensor) -> Tensor:
    """Return the loss of triplets with the hardest samples, of embeddings of any length."""
    with torch.no_grad():
        distance, is_same = torch.cdist(out, out), y[:, None] == y
        positive = distance.masked_fill(~is_same, -1.0).argmax(1)
        negative = distance.masked_fill(is_same, torch.inf).argmin(1)
    return functional.triplet_margin_loss(out, out[positive], out[negative], margin=MARGIN)


def semi_hard_triplets(out: Tensor, y: Tensor) -> Tensor:
    """Return the loss of all pairs of a class with a negative just farther, on the unit sphere."""
    out = functional.normalize(out)
    with torch.no_grad():
        distance, is_same = torch.cdist(out, out), y[:, None] == y
        other = ~torch.eye(len(y), dtype=torch.bool)
        anchor, positive = (is_same & other).nonzero(as_tuple=True)
        row = distance[anchor].masked_fill(is_same[anchor], torch.inf)
        is_farther = row > distance[anchor, positive][:, None]
        nearest = row.masked_fill(~is_farther, torch.inf).argmin(1)
        farthest = row.masked_fill(is_same[anchor], -1.0).argmax(1)
        negative = torch.where((is_farther & row.isfinite()).any(1), nearest, farthest)
    return functional.triplet_margin_loss(out[anchor], out[positive], out[negative], margin=MARGIN)


def cosine_triplets(out: Tensor, y: Tensor) -> Tensor:
    """Return the loss of triplets by the angle between them."""
    order = torch.randperm(len(y))
    with torch.no_grad():
        is_same = (y[:, None] == y)[:, order]
        positive, negative = order[is_same.int().argmax(1)], order[(~is_same).int().argmax(1)]
    return functional.triplet_margin_with_distance_loss(
        out, out[positive], out[negative], margin=0.5,
        distance_function=lambda a, b: 1 - functional.cosine_similarity(a, b),
    )  # fmt: skip


def pairs(out: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return embeddings, others, and 1 for pairs of a class or -1: as many of both."""
    order = torch.randperm(len(y))
    is_same = (y[:, None] == y)[:, order]
    others = [out[order[mask.int().argmax(1)]] for mask in (is_same, ~is_same)]
    sign = torch.ones(len(y))
    return torch.cat([out, out]), torch.cat(others), torch.cat([sign, -sign])


def cosine_pairs(out: Tensor, y: Tensor) -> Tensor:
    """Return the loss of pairs by the angle between them."""
    return functional.cosine_embedding_loss(*pairs(functional.normalize(out), y), margin=0.3)


def hinge_pairs(out: Tensor, y: Tensor) -> Tensor:
    """Return the loss of pairs by their distance."""
    one, other, sign = pairs(functional.normalize(out), y)
    return functional.hinge_embedding_loss(functional.pairwise_distance(one, other), sign)


def ranks(out: Tensor, y: Tensor) -> Tensor:
    """Return the loss of scores that order the digits."""
    score = out[:, 0]
    sign = (y - y.roll(1)).sign()
    return functional.margin_ranking_loss(score, score.roll(1), sign.float(), margin=0.5)


def sequences(out: Tensor, y: Tensor) -> Tensor:
    """Return the loss of finding one character in a sequence of four."""
    steps = torch.full((len(y),), 4)
    scores = out.unflatten(1, (4, 11)).log_softmax(2).transpose(0, 1)
    return functional.ctc_loss(scores, y[:, None] + 1, steps, steps // 4)


def labels(out: Tensor, y: Tensor) -> Tensor:
    """Return the loss of one label among ten that may all be right."""
    target = torch.full((len(y), 10), -1)
    target[:, 0] = y
    return functional.multilabel_margin_loss(out, target)


def long() -> nn.Module:
    """Return a net whose output is a sequence of four times eleven characters."""
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 44))


LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Training]] = {
    "triplet_margin_loss": (semi_hard_triplets, Training()),
    "triplet_margin_with_distance_loss": (cosine_triplets, Training()),
    "cosine_embedding_loss": (cosine_pairs, Training()),
    "hinge_embedding_loss": (hinge_pairs, Training()),
    "margin_ranking_loss": (ranks, Training(optimizer=sgd(0.02))),
    "ctc_loss": (sequences, Training(net=long, optimizer=adam(3e-3))),
    "multilabel_margin_loss": (labels, Training()),
    "huber_loss": (functional.huber_loss, Training(data=one_hot(1.0), optimizer=sgd(0.1))),
}
"""Loss functions, each with its use and what it trains."""
