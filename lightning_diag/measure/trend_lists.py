"""Which samples are shown of all that were followed, and why (W13)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning_diag.measure.read_again import Content
from lightning_diag.measure.trends import Trends

MOST = 16
"""Our choice: samples of a list that are shown, a screen of them."""
MOST_SUSPICIOUS = 32
"""Our choice: more where somebody will go through them."""
MOST_CLASSES = 16
"""Our choice: classes whose worst samples are shown."""

Lists = dict[str, dict[str, Any]]
"""Content to be shown, by name."""


def lists(
    trends: Trends, per_class: int, read: Callable[[list[int]], Mapping[int, Content]]
) -> Lists:
    """Return what is shown of the samples that were followed.

    Args:
        trends: All that is known of them.
        per_class: Samples of each class that are shown, 0 for none.
        read: Returns what can be shown of the samples themselves.

    Returns:
        For each list that is not empty ``samples`` (that were followed), ``found`` (how many belong
        on the list), for suspicious labels ``threshold``, and ``examples``.
    """
    suspicious = trends.suspicious()
    known = set(suspicious)
    chosen = {
        "example/worst": (trends.worst(), MOST),
        "example/mistakes": (trends.mistakes(), MOST),
        "example/suspicious": (suspicious, MOST_SUSPICIOUS),
        "example/never_learnt": ([i for i in trends.never_learnt() if i not in known], MOST),
        "example/forgotten": (trends.forgotten(), MOST),
    }
    if per_class:
        chosen["example/by_class"] = (trends.worst_by_class(per_class), MOST_CLASSES * per_class)
    shown = {name: found[:most] for name, (found, most) in chosen.items() if found}
    contents = read(list(dict.fromkeys(i for indices in shown.values() for i in indices)))
    found: Lists = {}
    for name, indices in shown.items():
        found[name] = {
            "stage": "train",
            "samples": len(trends),
            "found": len(chosen[name][0]),
            "examples": [{**trends.course(i), **contents.get(i, {})} for i in indices],
        }
    if "example/suspicious" in found:
        found["example/suspicious"]["threshold"] = trends.threshold()
    return found
