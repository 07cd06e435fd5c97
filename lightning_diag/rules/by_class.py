"""Targets, predictions and hits by class, over the newest looks at a loss call."""

from __future__ import annotations

from typing import NamedTuple

from lightning_diag.history import History


class Seen(NamedTuple):
    """Counts by class of some looks, and their sums."""

    steps: list[int]
    targets: list[float]
    hits: list[float]
    predicted: list[float]
    each: list[list[float]]
    """Targets by class of each look."""
    each_hit: list[list[float]]


def read_counts(history: History, place: str, window: int, after: int) -> Seen:
    """Return the counts of the newest `window` looks that were after a step.

    There must be one at least; looks with another number of classes than the newest are left out.
    """
    columns = []
    steps: list[int] = []
    for metric in ("class/target_count", "class/correct_count", "class/predicted_count"):
        newest = history.lists(metric, place, window)
        late = [(step, row) for step, row in newest if step > after]
        late = [(step, row) for step, row in late if len(row) == len(late[-1][1])]
        steps = [step for step, _ in late]
        columns.append([row for _, row in late])
    targets, hits, predicted = columns
    return Seen(
        steps, column_sums(targets), column_sums(hits), column_sums(predicted), targets, hits
    )


def column_sums(rows: list[list[float]]) -> list[float]:
    """Return the sum of each column.

    Example:
        >>> column_sums([[1.0, 2.0], [3.0, 4.0]])
        [4.0, 6.0]
    """
    return [sum(column) for column in zip(*rows, strict=True)]
