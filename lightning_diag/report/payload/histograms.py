"""Histograms over time: what activations, gradients and weights were spread over."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from lightning_diag.history import History
from lightning_diag.report.payload.layers import Tree
from lightning_diag.report.payload.numbers import chosen, spread, tidy

METRICS = {
    "activation": "activation/histogram",
    "gradient": "gradient/histogram",
    "weight": "weight/histogram",
}
"""Kind of histogram to the metric that holds it."""
MOST_PLACES, MOST_STEPS = 48, 40
"""Histograms of each kind, and steps of each: together below 1 MB."""


def histogram_rows(history: History, tree: Tree, wanted: Iterable[str]) -> list[dict[str, Any]]:
    """Return the histograms of all kinds, place by place.

    Args:
        history: The run.
        tree: Its layers.
        wanted: Places that stay where there are too many.
    """
    asked = set(wanted)
    found: list[dict[str, Any]] = []
    for kind, metric in METRICS.items():
        for place in chosen(history.places(metric), MOST_PLACES, asked):
            rows = _rows(history, metric, place)
            if rows:
                found.append(_columns(kind, place, rows) | {"layer": tree.layer_of(place)})
    return found


def left_out(history: History) -> int:
    """Return how many places have histograms that are not shown."""
    return sum(max(0, len(history.places(metric)) - MOST_PLACES) for metric in METRICS.values())


def _rows(history: History, metric: str, place: str) -> list[tuple[int, list[float]]]:
    """Return step and histogram, evenly thinned; what has no width says nothing."""
    known = [
        (step, values)
        for step, values in history.lists(metric, place)
        if len(values) > 3 and all(map(math.isfinite, values)) and values[0] < values[1]
    ]
    return [known[i] for i in spread(len(known), MOST_STEPS)]


def _columns(kind: str, place: str, rows: list[tuple[int, list[float]]]) -> dict[str, Any]:
    return {
        "place": place,
        "kind": kind,
        "steps": [step for step, _ in rows],
        "low": [tidy(values[0], 4) for _, values in rows],
        "high": [tidy(values[1], 4) for _, values in rows],
        "counts": [[int(n) for n in values[2:]] for _, values in rows],
    }
