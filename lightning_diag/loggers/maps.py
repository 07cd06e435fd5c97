"""Heat maps of the layers over the steps: plain grids of a history, and pictures of them."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_diag.history import History

MOST_ROWS, MOST_COLUMNS = 128, 64
"""Our choice: what is readable in a panel."""

_LABELLED_ROWS = 64
_BARE, _BROKEN = (200, 200, 200), (214, 39, 40)
# Matplotlib's viridis at nine even distances: readable for the colour-blind, and in grey.
_COLOURS = (
    (68, 1, 84),
    (71, 44, 122),
    (59, 81, 139),
    (44, 113, 142),
    (33, 144, 141),
    (39, 173, 129),
    (92, 200, 99),
    (170, 220, 50),
    (253, 231, 37),
)


@dataclass(frozen=True)
class MapKind:
    """A metric that has a heat map."""

    metric: str
    """What is shown."""
    name: str
    """The map's name among a run's metrics."""
    title: str
    """Its name for people."""
    log: bool
    """Whether colours follow the logarithm; otherwise they run from 0 to 1."""


KINDS = (
    MapKind("gradient/layer_norm", "gradient/by_layer", "Gradient norm by layer", log=True),
    MapKind("update/ratio", "update/by_weight", "Update ratio by weight", log=True),
    MapKind("dead_relu/fraction", "dead_relu/by_layer", "Dead ReLU units", log=False),
    MapKind(
        "activation/saturated_fraction",
        "activation/saturation_by_layer",
        "Saturated activations",
        log=False,
    ),
    MapKind("activation/variance_gain", "activation/gain_by_layer", "Variance gain", log=True),
)


@dataclass(frozen=True)
class LayerMap:
    """One metric of all places over the watched steps."""

    kind: MapKind
    """What is shown."""
    places: tuple[str, ...]
    """The rows, in the model's order."""
    steps: tuple[int, ...]
    """The first step of each column."""
    values: tuple[tuple[float | None, ...], ...]
    """Row by row: the largest number of a column's steps, None where nothing was observed."""

    def cells(self) -> Iterator[tuple[str, int, float]]:
        """Yield place, step and number of every cell that has one."""
        for place, row in zip(self.places, self.values, strict=True):
            for step, value in zip(self.steps, row, strict=True):
                if value is not None:
                    yield place, step, value

    def bounds(self) -> tuple[float, float]:
        """Return the numbers at the two ends of the colours."""
        if not self.kind.log:
            return 0.0, 1.0
        seen = [value for _, _, value in self.cells() if 0 < value < math.inf]
        return (min(seen), max(seen)) if seen else (1.0, 1.0)

    def caption(self) -> str:
        """Say how to read the picture."""
        low, high = self.bounds()
        return (
            f"{self.kind.title}: from {self.places[0]} (top) to {self.places[-1]}, steps "
            f"{self.steps[0]:,} to {self.steps[-1]:,}; dark is {low:.2g}, bright is {high:.2g}"
            f"{' on a log scale' if self.kind.log else ''}, grey was not observed, red is not "
            "finite."
        )


def layer_maps(history: History, columns: int = MOST_COLUMNS) -> list[LayerMap]:
    """Return a map of each kind that the history has numbers for, with so many columns at most.

    Example:
        >>> from lightning_diag.record import Record
        >>> history = History()
        >>> history.append(Record(step=0, values={"update/ratio": {"a": 0.1, "b": 0.2}}))
        >>> history.append(Record(step=4, values={"update/ratio": {"b": 0.3}}))
        >>> [(m.places, m.steps, m.values) for m in layer_maps(history)]
        [(('a', 'b'), (0, 4), ((0.1, None), (0.2, 0.3)))]
    """
    maps = (_layer_map(history, kind, columns) for kind in KINDS)
    return [found for found in maps if found is not None]


def _layer_map(history: History, kind: MapKind, columns: int) -> LayerMap | None:
    places = _thinned(history.places(kind.metric), MOST_ROWS)
    series = [history.series(kind.metric, place) for place in places]
    steps = sorted({step for line in series for step in line.steps})
    if not steps:
        return None
    firsts = _thinned(steps, columns)
    rows = []
    for line in series:
        row: list[float | None] = [None] * len(firsts)
        for step, value in zip(line.steps, line.values, strict=True):
            column = bisect_right(firsts, step) - 1
            row[column] = _larger(row[column], value)
        rows.append(tuple(row))
    return LayerMap(kind, tuple(places), tuple(firsts), tuple(rows))


def _thinned(members: Sequence[Any], most: int) -> list[Any]:
    n = min(len(members), most)
    return [members[i * len(members) // n] for i in range(n)]


def _larger(before: float | None, value: float) -> float:
    """Return the larger number; what is not finite wins, so that it is seen."""
    if before is None or not math.isfinite(value):
        return value
    return max(before, value) if math.isfinite(before) else before


def picture(grid: LayerMap) -> Any:
    """Draw a map as an image of PIL, its rows labelled.

    Raises:
        ImportError: If pillow is missing.
    """
    from PIL import Image, ImageDraw  # noqa: PLC0415  # loggers that show images need it too

    low, high = grid.bounds()
    columns, rows = len(grid.steps), len(grid.places)
    image = Image.new("RGB", (columns, rows))
    image.putdata([_colour(v, low, high, log=grid.kind.log) for row in grid.values for v in row])
    across, down = max(4, 512 // columns), max(3, min(16, 512 // rows))
    image = image.resize((columns * across, rows * down), Image.Resampling.NEAREST)
    every = max(1, math.ceil(12 / down)) if rows > _LABELLED_ROWS or down < 12 else 1
    names = [place if i % every == 0 else "" for i, place in enumerate(grid.places)]
    names = [name if len(name) < 33 else f"…{name[-31:]}" for name in names]
    margin = 8 + 6 * max(map(len, names))
    page = Image.new("RGB", (margin + image.width, image.height + 16), "white")
    page.paste(image, (margin, 0))
    draw = ImageDraw.Draw(page)
    for i, name in enumerate(names):
        draw.text((4, i * down + down // 2 - 6), _ascii(name), fill="black")
    draw.text((margin, image.height + 2), f"step {grid.steps[0]:,}", fill="black")
    last = f"{grid.steps[-1]:,}"
    draw.text((page.width - 7 * len(last) - 2, image.height + 2), last, fill="black")
    return page


def _ascii(name: str) -> str:
    """Return a name that the built-in bitmap font can draw."""
    return name.replace("…", "..").encode("ascii", "replace").decode()


def _colour(value: float | None, low: float, high: float, *, log: bool) -> tuple[int, int, int]:
    if value is None:
        return _BARE
    if not math.isfinite(value):
        return _BROKEN
    if value <= low or low == high:
        return _COLOURS[0]
    share = math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)
    at = min(share, 1.0) * (len(_COLOURS) - 1)
    i = min(int(at), len(_COLOURS) - 2)
    mixed = [round(a + (b - a) * (at - i)) for a, b in zip(*_COLOURS[i : i + 2], strict=True)]
    return mixed[0], mixed[1], mixed[2]
