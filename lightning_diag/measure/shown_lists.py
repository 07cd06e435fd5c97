"""Lists of worst samples as they are shown: those of all ranks and classes as one (W13)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning_diag.measure.examples import Example, worst
from lightning_diag.measure.recent import Found, Key

OfRanks = Mapping[Key, Sequence[Found]]
"""Samples looked at and worst examples of each rank, by list and loss call."""


def by_key(of_ranks: Sequence[Mapping[Key, Found]]) -> OfRanks:
    """Return for each list what the ranks have of it, classes in ascending order."""
    keys = sorted({key for rank in of_ranks for key in rank}, key=_class_of)
    return {key: [rank[key] for rank in of_ranks if key in rank] for key in keys}


def _class_of(key: Key) -> int:
    return int(key[0].partition(" ")[2] or -1)


def as_shown(of_ranks: OfRanks, most: int, per_class: int) -> dict[Key, Found]:
    """Return what is shown of each list; those of single classes become one.

    Args:
        of_ranks: What ranks have found.
        most: Samples of a list that are shown.
        per_class: Samples of each class that are shown.
    """
    found: dict[Key, tuple[int, list[Example]]] = {}
    for (name, place), parts in of_ranks.items():
        kind, is_class, _ = name.partition(" ")
        some = [one for _, examples_of in parts for one in examples_of]
        _, before = found.get((kind, place), (0, []))
        shown = [*before, *worst(some, per_class if is_class else most, kind)]
        found[kind, place] = sum(count for count, _ in parts), shown
    return found
