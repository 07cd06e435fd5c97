"""A metric of all places over the run."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning_diag.figures.look import (
    GREY,
    INK,
    Look,
    height_of,
    label_places,
    label_steps,
    legend_above,
    look_of,
    runs,
    sheet,
)
from lightning_diag.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_COLUMNS = 400
"""Columns of a map: more than its width shows apart in print."""

_MISSING, _ZERO, _LOST = 0.0, 1.0, 2.0
_SPECIAL: dict[float, dict[str, Any]] = {
    _MISSING: {"label": "not observed", "facecolor": GREY},
    _ZERO: {"label": "exactly 0", "facecolor": "white"},
    # Hatched, since each colour that could be chosen is near to one of a scale.
    _LOST: {"label": "NaN or inf", "facecolor": "white", "hatch": "xxxx"},
}
"""How cells look that hold no number of the scale."""

Grid = list[list[float | None]]
"""A row for each place; None was not observed."""


def heat_figure(history: History, metric: str) -> Figure:
    """Draw a metric as colours, place by step, the input on top.

    The colours are those of cividis, which reads alike with all kinds of colour vision; around a
    range that is usual, as of ``update/ratio``, they go from purple over white to orange. Where
    more steps were watched than fit, each cell is the largest number of a few neighbouring ones.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the history has no numbers of this metric.
    """
    series = {place: history.series(metric, place) for place in history.places(metric)}
    every_step = sorted({step for steps, _ in series.values() for step in steps})
    if not every_step:
        raise ValueError(f"There is nothing to draw: the history has no numbers of {metric!r}.")
    n = min(len(every_step), MOST_COLUMNS)
    starts = [every_step[i * len(every_step) // n] for i in range(n)]
    grid = [_pool(steps, values, starts) for steps, values in series.values()]
    look = look_of(metric, (value for row in grid for value in row if value is not None))
    places = list(series)
    figure, axes = sheet(height_of(places) + 0.9)
    _paint(axes, grid, _edges(starts, every_step[-1]), look)
    label_places(axes, places, height_of(places))
    label_steps(axes)
    axes.set_title(look.title, loc="left", parse_math=False)
    return figure


def _pool(
    steps: Sequence[int], values: Sequence[float], starts: Sequence[int]
) -> list[float | None]:
    """Return the largest number in each column: NaN or inf where there was any."""
    row: list[float | None] = [None] * len(starts)
    for step, value in zip(steps, values, strict=True):
        column = bisect_right(starts, step) - 1
        before = row[column]
        if before is None or not math.isfinite(value):
            row[column] = value
        elif math.isfinite(before):
            row[column] = max(before, value)
    return row


def _edges(starts: Sequence[int], last: int) -> list[float]:
    """Return where columns begin and the last one ends."""
    return [*map(float, starts), float(max(last, starts[-1]) + 1)]


def _paint(axes: Axes, grid: Grid, edges: Sequence[float], look: Look) -> None:
    import numpy as np  # noqa: PLC0415  # matplotlib requires it
    from matplotlib.colors import ListedColormap  # noqa: PLC0415  # an extra
    from matplotlib.patches import Patch  # noqa: PLC0415

    rows = np.arange(len(grid) + 1) - 0.5
    kinds = np.array([[_kind(value, look) for value in row] for row in grid])
    numbers = np.ma.masked_where(
        ~np.isnan(kinds), [[math.nan if v is None else v for v in row] for row in grid]
    )
    below = np.ma.masked_invalid(kinds)
    special = ListedColormap([style["facecolor"] for style in _SPECIAL.values()])
    # As pixels even in an SVG: tens of thousands of rectangles open slowly and print badly.
    axes.pcolormesh(edges, rows, below, cmap=special, vmin=-0.5, vmax=2.5, rasterized=True)
    if numbers.count():
        mesh = axes.pcolormesh(edges, rows, numbers, rasterized=True, **_colours(numbers, look))
        aspect = 4 * height_of(grid)
        bar = axes.figure.colorbar(
            mesh, ax=axes, label=look.unit, pad=0.02, aspect=aspect, extend=_ends(mesh)
        )
        bar.outline.set_visible(False)
    for row, cells in enumerate(kinds):
        spans = [
            (edges[first], edges[first + length] - edges[first])
            for first, length in runs(np.flatnonzero(cells == _LOST).tolist())
        ]
        axes.broken_barh(
            spans, (row - 0.5, 1), facecolor="none", edgecolor=INK, hatch="xxxx", linewidth=0
        )
    used = [style for kind, style in _SPECIAL.items() if kind in set(below.compressed())]
    if used:
        legend_above(axes, handles=[Patch(edgecolor=INK, linewidth=0.5, **style) for style in used])


def _kind(value: float | None, look: Look) -> float:
    """Return what a cell is that holds no number of the scale, NaN for one that does."""
    if value is None:
        return _MISSING
    if not math.isfinite(value):
        return _LOST
    return _ZERO if value == 0 and look.scale == "log" else math.nan


def _colours(numbers: Any, look: Look) -> dict[str, Any]:
    from matplotlib.colors import LogNorm, Normalize  # noqa: PLC0415  # an extra

    if look.scale == "share":
        return {"cmap": "cividis", "norm": Normalize(0, 1)}
    if look.scale == "linear":
        return {"cmap": "cividis"}
    if look.usual is not None:
        middle = math.sqrt(look.usual[0] * look.usual[1])
        return {"cmap": "PuOr_r", "norm": LogNorm(middle / 1000, middle * 1000)}
    low, high = float(abs(numbers).min()), float(abs(numbers).max())
    missing = max(0.0, 2 - (math.log10(high) - math.log10(low))) / 2
    return {"cmap": "cividis", "norm": LogNorm(low / 10**missing, high * 10**missing)}


def _ends(mesh: Any) -> str:
    values, norm = mesh.get_array(), mesh.norm
    low, high = bool(values.min() < norm.vmin), bool(values.max() > norm.vmax)
    return {(False, False): "neither", (True, False): "min", (False, True): "max"}.get(
        (low, high), "both"
    )
