"""Which records of a long run stay: the first, the newest, and an even spread between."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from lightning_diag.history.layout import Row

FIRST = 16
"""Records at the start that stay. Our choice: most faults show in the first steps, which are
watched densely, and at the default limits 16 records are about 1 % of a large model's history."""


def thin(rows: Sequence[Row], target: int) -> list[Row]:
    """Return the rows that stay, of a total cost of at most `target`; the newest always stays.

    The first 16 rows stay, and the newest ones worth half of `target`, and the newest row of each
    metric. Of the others, the most closely spaced lose every second row, again and again, until
    the rest fits; of two neighbours the one that holds more metrics stays, so that metrics
    which are observed at a lower rate are not lost first.
    """
    if not rows:
        return []
    costs = [row.cost for row in rows]
    pinned = set(range(_newest(costs, target // 2), len(rows)))
    pinned |= _newest_of_each_metric(rows) | set(range(min(FIRST, len(rows))))
    room = target - sum(costs[i] for i in pinned)
    others = [i for i in range(len(rows)) if i not in pinned]
    kept = sorted(pinned.union(_spread(rows, costs, others, room)))
    if sum(costs[i] for i in kept) > target:
        kept = list(range(_newest(costs, target), len(rows)))
    return [rows[i] for i in kept]


def _newest(costs: Sequence[int], target: int) -> int:
    """Return the first index of the newest rows that cost at most `target`, or of the last."""
    start, total = len(costs) - 1, costs[-1]
    while start > 0 and total + costs[start - 1] <= target:
        start -= 1
        total += costs[start]
    return start


def _newest_of_each_metric(rows: Sequence[Row]) -> set[int]:
    newest = {metric: i for i, row in enumerate(rows) for metric in row.metrics}
    return set(newest.values())


def _spread(rows: Sequence[Row], costs: Sequence[int], indices: list[int], room: int) -> list[int]:
    """Return those of the indices that stay: one for each interval of steps, within `room`."""
    steps = [rows[i].step for i in indices]
    interval = min((b - a for a, b in pairwise(steps)), default=1)
    while indices and sum(costs[i] for i in indices) > room:
        interval *= 2
        if interval > 2 * (steps[-1] - steps[0] + 1):
            return []
        indices = _one_of_each(rows, indices, interval)
    return indices


def _one_of_each(rows: Sequence[Row], indices: list[int], interval: int) -> list[int]:
    best: dict[int, int] = {}
    for i in indices:
        # Intervals begin at multiples, so that one of twice the length joins two of them, and
        # what earlier thinnings left evenly spread stays so.
        key = rows[i].step // interval
        if key not in best or _richness(rows[i]) > _richness(rows[best[key]]):
            best[key] = i
    return list(best.values())


def _richness(row: Row) -> int:
    return len(row.shape.indices) + len(row.lists)
