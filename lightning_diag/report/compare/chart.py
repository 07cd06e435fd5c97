"""The losses of runs as a drawing, for who has no scripts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lightning_diag.history import Series
from lightning_diag.report.axis import Axis, Tick

POINTS = 600
"""Points of a line (our choice): about one for each column of pixels."""
LOG_FROM = 50.0
"""Largest over smallest loss from which the axis is logarithmic, as in the report."""


@dataclass(frozen=True)
class Chart:
    """The losses of all runs in one picture."""

    title: str
    """What it shows."""
    lines: tuple[tuple[str, ...], ...]
    """For each run the pieces of its line, as points; a piece ends where the loss is not finite."""
    across: tuple[Tick, ...]
    """Marks of the steps, in percent from the left."""
    up: tuple[Tick, ...]
    """Marks of the losses, in percent from the bottom."""
    is_log: bool
    """Whether losses are on a logarithmic scale."""


def chart(title: str, curves: Sequence[Series]) -> Chart | None:
    """Return the picture of some curves; None when none has a finite number."""
    finite = [v for curve in curves for v in curve.values if math.isfinite(v)]
    if not finite:
        return None
    is_log = min(finite) > 0 and max(finite) / min(finite) >= LOG_FROM
    up = Axis.around(min(finite), max(finite), log=is_log)
    across = Axis.around(0, max(curve.steps[-1] for curve in curves if curve.steps))
    return Chart(
        title,
        tuple(tuple(_pieces(curve, across, up)) for curve in curves),
        tuple(across.ticks()),
        tuple(up.ticks()),
        is_log,
    )


def _pieces(curve: Series, across: Axis, up: Axis) -> Iterator[str]:
    """Yield the pieces of a line as points: the mean of each share of the steps."""
    stride = max(1, math.ceil(len(curve.values) / POINTS))
    points: list[str] = []
    for i in range(0, len(curve.values), stride):
        share = curve.values[i : i + stride]
        if all(map(math.isfinite, share)):
            value = math.fsum(share) / len(share)
            points.append(f"{across.at(curve.steps[i])},{100 - up.at(value):.2f}")
        elif points:
            yield " ".join(points)
            points = []
    if points:
        yield " ".join(points)
