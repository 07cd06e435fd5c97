"""Heat maps, place by step: history and findings to plain rows of cells for a template."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lightning_diag.finding import Finding
from lightning_diag.history import History, Series
from lightning_diag.report.axis import Tick
from lightning_diag.report.kinds import KINDS, Kind
from lightning_diag.report.scale import Scale, Swatch
from lightning_diag.report.words import span

MOST_CELLS = 30_000
"""Cells of all maps together: at about 50 bytes each, the page stays under 2 MB."""

MOST_COLUMNS, LEAST_COLUMNS = 120, 12
"""Columns of a map: no narrower than a finger's tip on a wide page, no fewer than show a trend."""

MOST_ROWS = 400
"""Rows of a map. Our choice: more than anyone scrolls through."""


@dataclass(frozen=True)
class Cell:
    """One place during a few watched steps."""

    style: str
    """Style class of its colour."""
    title: str
    """Its steps and its number."""


@dataclass(frozen=True)
class Row:
    """One place."""

    name: str
    """The place, as everywhere in this package."""
    short: str
    """The place without what all rows begin with."""
    newest: str
    """Its last number."""
    text: str
    """The row in words."""
    marks: tuple[tuple[int, str], ...]
    """Number and severity of the findings that name it."""
    cells: tuple[Cell, ...]
    """From the first step to the last."""


@dataclass(frozen=True)
class HeatMap:
    """One metric of all places over all watched steps."""

    title: str
    """What is shown."""
    guide: str
    """How to read it."""
    prefix: str
    """What all places begin with, left out of the rows' short names."""
    ticks: tuple[Tick, ...]
    """Steps, at the middle of their columns."""
    rows: tuple[Row, ...]
    """In the model's order, input first."""
    legend: tuple[Swatch, ...]
    """What the colours mean."""
    left_out: int
    """Places that have no row, since there are too many."""


@dataclass(frozen=True)
class _Table:
    """All numbers of one heat map."""

    kind: Kind
    places: tuple[str, ...]
    left_out: int
    series: tuple[Series, ...]


def heat_maps(history: History, findings: Sequence[Finding]) -> list[HeatMap]:
    """Return a heat map of each kind that the history has numbers for."""
    tables = [found for kind in KINDS if (found := _table(history, kind, findings))]
    rows = sum(len(table.places) for table in tables)
    columns = min(MOST_COLUMNS, max(LEAST_COLUMNS, MOST_CELLS // max(rows, 1)))
    return [_heat_map(table, columns, findings) for table in tables]


def _table(history: History, kind: Kind, findings: Sequence[Finding]) -> _Table | None:
    places = history.places(kind.metric)
    if kind.weights_only:
        places = _weights(history, places)
    kept = _keep(places, findings)
    series = _series(history, kind.metric, kept)
    if not any(steps_seen for steps_seen, _ in series):
        return None
    return _Table(kind, tuple(kept), len(places) - len(kept), series)


def _series(history: History, metric: str, places: Sequence[str]) -> tuple[Series, ...]:
    """Return the series of many places in one pass; those observed together share their steps."""
    rows = list(history.columns(metric))
    known = history.places(metric)
    position = {place: i for i, place in enumerate(known)}
    if all(len(numbers) == len(known) for _, _, numbers in rows):
        steps = [step for step, _, _ in rows]
        lines = list(zip(*(numbers for _, _, numbers in rows), strict=True))
        return tuple(Series(steps, list(lines[position[p]]) if lines else []) for p in places)
    found = [Series([], []) for _ in known]
    for step, index, numbers in rows:
        for i, value in zip(index, numbers, strict=True):
            found[i].steps.append(step)
            found[i].values.append(value)
    return tuple(found[position[place]] for place in places)


def _weights(history: History, places: list[str]) -> list[str]:
    """Leave out biases and the like, which start at zero and whose ratio says little."""
    known = history.meta.get("parameters") or {}
    chosen = [place for place in places if len(known.get(place, {}).get("shape", ())) > 1]
    return chosen or places


def _keep(places: list[str], findings: Sequence[Finding]) -> list[str]:
    """Choose rows where there are too many: those of findings, and every n-th of the others."""
    if len(places) <= MOST_ROWS:
        return places
    named = [place for place in places if _concerned(place, findings)][: MOST_ROWS // 2]
    every = len(places) / (MOST_ROWS - len(named))
    chosen = {places[int(i * every)] for i in range(MOST_ROWS - len(named))} | set(named)
    return [place for place in places if place in chosen]


def _heat_map(table: _Table, columns: int, findings: Sequence[Finding]) -> HeatMap:
    each_once = {id(seen): seen for seen, _ in table.series}.values()
    every_step = sorted({step for seen in each_once for step in seen})
    starts = _columns(every_step, columns)
    first_steps = [every_step[i] for i in starts]
    last_steps = [every_step[i - 1] for i in (*starts[1:], len(every_step))]
    spans = [span(*ends) for ends in zip(first_steps, last_steps, strict=True)]
    grid = [_pool(seen, values, first_steps) for seen, values in table.series]
    scale = table.kind.scale(v for line in grid for v in line if v is not None)
    prefix = _prefix(table.places)
    rows = tuple(
        _row(table, i, prefix, _cells(table.kind, scale, line, spans), findings)
        for i, line in enumerate(grid)
    )
    used = {cell.style for row in rows for cell in row.cells}
    return HeatMap(
        title=table.kind.title,
        guide=table.kind.guide,
        prefix=prefix,
        ticks=_ticks(first_steps, last_steps[-1]),
        rows=rows,
        legend=tuple(scale.legend(used)),
        left_out=table.left_out,
    )


def _columns(every_step: Sequence[int], most: int) -> list[int]:
    """Return at which of the watched steps each column begins."""
    n = min(len(every_step), most)
    return [i * len(every_step) // n for i in range(n)]


def _pool(
    seen: Sequence[int], values: Sequence[float], first_steps: Sequence[int]
) -> list[float | None]:
    """Return the largest number in each column: NaN or inf where there was any."""
    bounds = [*(bisect_left(seen, step) for step in first_steps), len(seen)]
    return [_largest(values[start:end]) for start, end in pairwise(bounds)]


def _largest(values: Sequence[float]) -> float | None:
    if not values:
        return None
    if math.isfinite(sum(values)):
        return max(values)
    return next((v for v in reversed(values) if not math.isfinite(v)), max(values))


def _cells(
    kind: Kind, scale: Scale, line: Sequence[float | None], spans: Sequence[str]
) -> tuple[Cell, ...]:
    return tuple(
        Cell(scale.style(value), f"{label}: {text}")
        for value, label in zip(line, spans, strict=True)
        for text in ["not observed" if value is None else kind.write(value)]
    )


def _row(
    table: _Table, i: int, prefix: str, cells: tuple[Cell, ...], findings: Sequence[Finding]
) -> Row:
    place, (_, values) = table.places[i], table.series[i]
    write = table.kind.write
    newest = write(values[-1]) if values else "–"
    text = f"{place}: {write(values[0])} at first, {newest} at last" if values else place
    return Row(place, place[len(prefix) :], newest, text, _concerned(place, findings), cells)


def _concerned(place: str, findings: Sequence[Finding]) -> tuple[tuple[int, str], ...]:
    """Return the findings that name a place, the layer it is in, or what is in it."""
    return tuple(
        (i, finding.severity)
        for i, finding in enumerate(findings, start=1)
        if any(_inside(place, named) or _inside(named, place) for named in finding.places)
    )


def _inside(place: str, outer: str) -> bool:
    return place == outer or place.startswith((f"{outer}.", f"{outer}/"))


def _prefix(places: Sequence[str]) -> str:
    """Return the module path that all places begin with."""
    parts = [place.split(".")[:-1] for place in places]
    if len(parts) < 2:
        return ""
    shared: list[str] = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return "".join(f"{name}." for name in shared)


def _ticks(first_steps: Sequence[int], last: int) -> tuple[Tick, ...]:
    """Label the first step, the last one, and the columns at the quarters between."""
    n = len(first_steps)
    inner = sorted({n * quarter // 4 for quarter in (1, 2, 3)}) if n > 8 else []
    ticks = [Tick(0.0, f"step {first_steps[0]:,}")]
    ticks += [Tick(round(100 * i / n, 2), f"{first_steps[i]:,}", minor=True) for i in inner]
    return (*ticks, Tick(100.0, f"{last:,}")) if last > first_steps[0] else tuple(ticks)
