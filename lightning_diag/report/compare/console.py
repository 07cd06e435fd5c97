"""What differs between runs, on the terminal."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import rich
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lightning_diag.report.compare.differences import Differences, LayerTable, Row
from lightning_diag.report.console import write
from lightning_diag.report.live.spark import ASCII_BARS, BARS, spark
from lightning_diag.report.words import SIGNS, plain

_SETTINGS = 12
"""Settings that differ and are shown (our choice); the page has all."""
_LAYERS = 5
"""Places of each metric that are shown (our choice); the page has more."""
_NAME = 28
"""Columns that a name gets before it is broken (our choice): those of most layers."""


def show(found: Differences, *, page: Path | None = None, console: Console | None = None) -> None:
    """Print what differs between runs.

    Args:
        found: What differs.
        page: Where the page lies, when one was written.
        console: Where to; by default rich's own console.
    """
    out = console or rich.get_console()
    write(out, *_parts(found, out))
    if page is not None:
        line = Text.assemble(("Page  ", "dim"), plain(os.path.relpath(page)))
        write(out, line, wrap=False)


def _parts(found: Differences, out: Console) -> Iterator[RenderableType]:
    ascii_only = out.options.ascii_only
    for name, verdict in zip(found.names, found.verdicts, strict=True):
        sign = SIGNS[verdict.tone]
        mark = sign.ascii if ascii_only else sign.mark
        yield Text.assemble(
            (f"{mark} ", sign.style), (f"{plain(name)}: ", "bold"), plain(verdict.sentence)
        )
    yield Text()
    yield from _table("Findings", found.names, found.findings)
    yield from _table("Numbers", found.names, found.numbers)
    curves = [(n, s) for n, s in zip(found.names, found.losses, strict=True) if s.values]
    if curves:
        yield Text("Training loss, each on its own scale", "bold")
        width = min(40, max(map(len, found.names)))
        for name, series in curves:
            bars = ASCII_BARS if ascii_only else BARS
            line = spark(_levels(series.values, max(1, out.width - width - 4)), bars)
            yield Text(f"  {_fitted(name, width)}  {line}")
        yield Text()
    rows, more = found.settings[:_SETTINGS], len(found.settings) - _SETTINGS
    yield from _table("Settings that differ", found.names, rows)
    if more > 0:
        yield Text(f"  and {more} more: the page of `--out` has them\n", "dim")
    for table in found.layers:
        yield from _layers(table, found.names)


def _fitted(name: str, width: int) -> str:
    """Return a name of just this width; the end of a path says more than its beginning."""
    text = plain(name)
    return text.ljust(width) if len(text) <= width else f"…{text[1 - width :]}"


def _levels(values: Sequence[float], n: int) -> list[float]:
    """Return at most `n` numbers, each the mean of an equal share of all."""
    if len(values) <= n:
        return list(values)
    edges = [round(i * len(values) / n) for i in range(n + 1)]
    shares = (values[a:b] for a, b in pairwise(edges))
    return [sum(share) / len(share) for share in shares]


def _grid(
    title: str, heads: Sequence[str], rows: Iterable[Sequence[Text]]
) -> Iterator[RenderableType]:
    yield Text(title, "bold")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    lines = list(rows)
    first = max(len(line[0]) for line in lines)
    table.add_column("", overflow="fold", min_width=min(first, _NAME))
    for head in heads:
        table.add_column(Text(plain(head)), overflow="fold", min_width=8)
    for line in lines:
        table.add_row(*line)
    yield Padding(table, (0, 0, 1, 2))


def _table(title: str, names: Sequence[str], rows: Sequence[Row]) -> Iterator[RenderableType]:
    if not rows:
        yield Text.assemble((title, "bold"), ": none\n")
        return
    cells = (
        [
            Text(plain(row.name), "bold" if row.differs else ""),
            *(Text(plain(cell) or "–") for cell in row.cells),
        ]
        for row in rows
    )
    yield from _grid(title, names, cells)


def _layers(table: LayerTable, names: Sequence[str]) -> Iterator[RenderableType]:
    what = "difference" if table.is_share else "ratio"
    title = f"{table.title}: medians over the run, largest {what} first"
    cells = (
        [
            Text(plain(row.place)),
            *(Text(table.write(value) or "–") for value in row.values),
            Text(table.write_difference(row.difference)),
        ]
        for row in table.rows[:_LAYERS]
    )
    yield from _grid(title, [*names, what], cells)
