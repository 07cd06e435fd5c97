"""Focal loss one number at a time, in the floats of Python: the reference of its tests."""

from __future__ import annotations

import math
from collections.abc import Sequence

Row = Sequence[float]


def log_softmax(row: Row) -> list[float]:
    top = max(row)
    total = math.log(sum(math.exp(x - top) for x in row))
    return [x - top - total for x in row]


def of_row(
    row: Row, q: Row, gamma: float, *, weight: Row, alpha: Row, smoothing: float = 0.0
) -> float:
    """Return the loss of a row of logits whose classes have the probabilities `q`."""
    classes = len(row)
    q = [(1 - smoothing) * each + smoothing / classes for each in q]
    logs = log_softmax(row)
    entropy = -sum(
        w * a * each * log for w, a, each, log in zip(weight, alpha, q, logs, strict=True)
    )
    wrong = sum((1 - each) * math.exp(log) for each, log in zip(q, logs, strict=True))
    return float(entropy * wrong**gamma)


def of_element(
    x: float, t: float, gamma: float, *, weight: float, pos_weight: float, alpha: float | None,
    smoothing: float = 0.0,
) -> float:  # fmt: skip
    """Return the loss of one logit whose target is `t`."""
    t = (1 - smoothing) * t + smoothing / 2
    yes = 1 / (1 + math.exp(-x))
    entropy = -pos_weight * t * math.log(yes) - (1 - t) * math.log(1 - yes)
    side = 1.0 if alpha is None else alpha * t + (1 - alpha) * (1 - t)
    return float(side * weight * entropy * (t * (1 - yes) + (1 - t) * yes) ** gamma)


def mean(losses: Row, weights: Row) -> float:
    """Return the weighted mean, 0 where there is nothing."""
    return sum(losses) / sum(weights) if sum(weights) else 0.0
