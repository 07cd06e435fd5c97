"""How rules read the calls of loss functions: what they were given, which one is trained by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import islice
from typing import Any

from lightning_diag.history import History

Call = Mapping[str, Any]
REGRESSION = frozenset({"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"})
"""Losses of how far a prediction is from its target."""
CLASSIFIES = frozenset({"cross_entropy", "nll_loss", "multi_margin_loss"})
"""Losses whose target is the index of a class."""
_SAME = 1e-3


def loss_calls(history: History) -> dict[str, Call]:
    """Return what the metadata say of each loss call, by place."""
    known: dict[str, Call] = history.meta.get("losses", {})
    return known


def the_loss(history: History) -> str | None:
    """Return the place of the one call that returned the training loss, None if none did.

    Where the loss is a sum of several, or a call is only looked at, none is the training loss.
    """
    first = next(islice(history.records(), 1))
    dense = first.dense.get("loss/train")
    if not dense:
        return None
    loss = float(dense[-1])
    for place, value in first.values.get("output/loss", {}).items():
        if abs(value - loss) <= _SAME * max(abs(loss), 1e-6) or value == loss:
            return place
    return None


def looks(history: History, metric: str, place: str, n: int) -> list[tuple[int, float]]:
    """Return step and number of the newest `n` looks at a call, oldest first."""
    return [(step, values[place]) for step, values in history.window(metric, n) if place in values]


def first_look(history: History, metric: str, place: str) -> float:
    """Return a number of a call's first look, NaN if it has none or was not at step 0."""
    first: Mapping[str, float] = loss_calls(history).get(place, {}).get("first", {})
    return first.get(metric, math.nan) if first.get("step") == 0 else math.nan


def pooled(history: History, metric: str, place: str, n: int) -> list[float]:
    """Return the counts by class of the newest `n` looks, added up; [] if there are none."""
    found = [counts for _, counts in history.lists(metric, place, n)]
    width = len(found[-1]) if found else 0
    same = [counts for counts in found if len(counts) == width]
    return [sum(column) for column in zip(*same, strict=True)]
