"""Heat maps, place by step, as plain rows of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from lightning_diag.history import History
from lightning_diag.report.payload.layers import Tree
from lightning_diag.report.payload.numbers import Value, chosen, tidied, tidy

MOST_CELLS = 200_000
"""Cells of all maps together: at up to ten bytes each they take 2 MB."""
MOST_PLACES = 600
"""Rows of a map. Our choice: more than anyone scrolls through."""
MOST_COLUMNS, LEAST_COLUMNS = 400, 24
"""Columns of a map: no more than a wide page has room for, no fewer than show a trend."""
_DIGITS = 4
"""Significant digits: colours show two, the rest is for who points at a cell."""

Pool: TypeAlias = Literal["largest", "median"]
"""How records that share a column become one number. What is not finite always shows."""


@dataclass(frozen=True)
class Kind:
    """One kind of map."""

    id: str
    """Its name in the payload."""
    metric: str
    """What is shown."""
    title: str
    """Its name for people."""
    guide: str
    """How to read it."""
    unit: str
    """What its numbers are; empty for plain ones."""
    scale: Literal["log", "linear"]
    """Which scale shows it best."""
    pool: Pool
    """How records are joined."""
    band: tuple[float, float] | None = None
    """Where numbers of a healthy run lie, if that can be said of any run."""
    weights_only: bool = False
    """Whether parameters of one dimension are left out."""


KINDS = (
    Kind(
        "gradient_norm",
        "gradient/layer_norm",
        "Gradient norm",
        "Rows of a healthy net look much alike. Rows that fade towards the input get no gradient "
        "(vanishing); columns that light up are explosions.",
        "L2 norm",
        "log",
        "largest",
    ),
    Kind(
        "update_ratio",
        "update/ratio",
        "Update ratio",
        "How far one step moves a weight, relative to its size. About 1e-3 is usual; less hardly "
        "learns, more overwrites what was learnt.",
        "",
        "log",
        "median",
        # "About 1e-3" is Stanford's CS231n, Neural Networks Part 3; half a decade to each side of
        # it is our choice.
        band=(3e-4, 3e-3),
        weights_only=True,
    ),
    Kind(
        "dead_share",
        "dead_relu/fraction",
        "Dead ReLU units",
        "Share of units that no sample of the window switched on. No gradient reaches the weights "
        "of a dead unit, so it rarely comes back.",
        "share",
        "linear",
        "largest",
    ),
    Kind(
        "saturation",
        "activation/saturated_fraction",
        "Saturated activations",
        "Share of inputs at which the function is flat, so that hardly any gradient passes.",
        "share",
        "linear",
        "largest",
    ),
    Kind(
        "variance_gain",
        "activation/variance_gain",
        "Variance gain",
        "Variance of a layer's output over that of its input. About 1 keeps the signal; a chain of "
        "gains below loses it, a chain above blows it up.",
        "",
        "log",
        "median",
        # Glorot and Bengio 2010 ask for 1; a factor of 2 to each side is our choice, since ReLU
        # layers need 2.
        band=(0.5, 2.0),
    ),
    Kind(
        "activation_std",
        "activation/std",
        "Standard deviation of activations",
        "A row much smaller than the one before it says that the signal is lost on its way; a much "
        "larger one, that it is blown up.",
        "",
        "log",
        "median",
    ),
)
"""In the order of the page: from what is learnt to how the signal fares."""


def heat_maps(
    history: History, tree: Tree, wanted: Iterable[str], *, cells: int = MOST_CELLS
) -> list[dict[str, Any]]:
    """Return a map of each kind that the history has numbers for.

    Args:
        history: The run.
        tree: Its layers.
        wanted: Places that stay where there are too many, such as those of findings.
        cells: Of all maps together; few columns stay whatever it says.
    """
    asked = set(wanted)
    tables = [(kind, _places(history, kind, asked)) for kind in KINDS]
    rows = sum(len(kept) for _, kept in tables)
    most = min(MOST_COLUMNS, max(LEAST_COLUMNS, cells // max(rows, 1)))
    found = (_map(history, tree, kind, kept, most) for kind, kept in tables if kept)
    return [each for each in found if each is not None]


def shown_places(history: History, metric: str) -> list[str]:
    """Return the places of a metric that say something of layers, in their order."""
    kind = next((kind for kind in KINDS if kind.metric == metric), None)
    return history.places(metric) if kind is None else _all_places(history, kind)


def _places(history: History, kind: Kind, asked: set[str]) -> list[str]:
    return chosen(_all_places(history, kind), MOST_PLACES, asked)


def _all_places(history: History, kind: Kind) -> list[str]:
    """Return the places of a metric; biases start at zero, and their ratio says little."""
    places = history.places(kind.metric)
    if not kind.weights_only:
        return places
    known = history.meta.get("parameters") or {}
    weights = [place for place in places if len(known.get(place, {}).get("shape", ())) > 1]
    return weights or places


def _map(
    history: History, tree: Tree, kind: Kind, places: Sequence[str], most: int
) -> dict[str, Any] | None:
    rows = list(history.columns(kind.metric))
    if not rows:
        return None
    n = min(most, len(rows))
    groups = [rows[i * len(rows) // n : (i + 1) * len(rows) // n] for i in range(n)]
    join = _JOIN[kind.pool]
    everywhere = history.places(kind.metric)
    positions = [everywhere.index(place) for place in places]
    columns = [_pooled(group, len(everywhere), join) for group in groups]
    shown = [[_written(column[i]) for column in columns] for i in positions]
    return {
        "id": kind.id,
        "metric": kind.metric,
        "title": kind.title,
        "guide": kind.guide,
        "unit": kind.unit,
        "scale": kind.scale,
        "pool": kind.pool,
        "band": None if kind.band is None else list(kind.band),
        "range": _range(shown),
        "places": list(places),
        "layer": [tree.layer_of(place) for place in places],
        "steps": [group[0][0] for group in groups],
        "values": shown,
        "left_out": len(_all_places(history, kind)) - len(places),
        "records": len(rows),
    }


_Row: TypeAlias = tuple[int, Sequence[int], Sequence[float]]


def _pooled(
    group: Sequence[_Row], places: int, join: Callable[[Sequence[float]], float]
) -> list[float | None]:
    """Return one number for each place of a few records; None where there was none."""
    alike = all(len(numbers) == places for _, _, numbers in group)
    if alike and all(math.isfinite(sum(numbers)) for _, _, numbers in group):
        return [join(values) for values in zip(*(numbers for _, _, numbers in group), strict=True)]
    seen: list[list[float]] = [[] for _ in range(places)]
    for _, index, numbers in group:
        for i, value in zip(index, numbers, strict=True):
            seen[i].append(value)
    return [_joined(values, join) if values else None for values in seen]


def _joined(values: Sequence[float], join: Callable[[Sequence[float]], float]) -> float:
    """Join numbers; the first that is not finite hides the others."""
    return next((value for value in values if not math.isfinite(value)), None) or join(values)


def _median(values: Sequence[float]) -> float:
    """Return the middle one, of two the larger."""
    return values[0] if len(values) == 1 else sorted(values)[len(values) // 2]


_JOIN: dict[Pool, Callable[[Sequence[float]], float]] = {"largest": max, "median": _median}


def _written(value: float | None) -> Value:
    return None if value is None else tidy(value, _DIGITS)


def _range(rows: Sequence[Sequence[Value]]) -> list[Value] | None:
    """Return what nearly all positive numbers lie between, so that one cell sets no colour."""
    positive = sorted(v for row in rows for v in row if isinstance(v, int | float) and v > 0)
    if not positive:
        return None
    return tidied((positive[len(positive) // 100], positive[-1 - len(positive) // 100]), _DIGITS)
