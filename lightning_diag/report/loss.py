"""The loss curve: history and findings to plain numbers that a template can draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from lightning_diag.finding import Finding
from lightning_diag.history import History
from lightning_diag.report.axis import Axis, Tick
from lightning_diag.report.words import count, number, steps

MOST_POINTS = 500
"""Points drawn at most: about one for each pixel pair of a wide page."""

LOG_FROM = 50.0
"""Largest over smallest loss from which the axis is logarithmic. Our choice: below it, a linear
axis still shows the end of the curve apart from zero."""

WIDTH, HEIGHT = 1000, 1000
"""Size of the drawing that paths are given in; the template stretches it."""


@dataclass(frozen=True)
class Mark:
    """The first step of a finding, on the curve."""

    at: float
    """Percent of the axis."""
    number: int
    """Number of the finding in the page's list."""
    tone: str
    """Severity of the finding."""
    level: int
    """How many marks lie so near that this one has to move down."""
    title: str
    """What it marks."""


@dataclass(frozen=True)
class Gap:
    """Steps whose loss was not finite."""

    at: float
    """Percent of the axis."""
    width: float
    """Percent of the axis."""
    title: str
    """Which steps, and how many."""


@dataclass(frozen=True)
class LossChart:
    """The loss of every step, ready to be drawn."""

    x: tuple[Tick, ...]
    """Ticks of the steps."""
    y: tuple[Tick, ...]
    """Ticks of the loss, from the bottom."""
    line: str
    """SVG path of the smoothed loss."""
    band: str
    """SVG path around the least and the largest loss of each point."""
    marks: tuple[Mark, ...]
    """Where findings began."""
    gaps: tuple[Gap, ...]
    """Where the loss was not finite."""
    log: bool
    """Whether the loss axis is logarithmic."""
    smoothed: int
    """Steps that each point of the line is an average over."""
    text: str
    """The curve in words."""


@dataclass(frozen=True)
class _Bin:
    """Neighbouring steps, drawn as one point."""

    first: int
    last: int
    values: tuple[float, ...]

    @property
    def bad(self) -> int:
        return sum(not math.isfinite(value) for value in self.values)

    @property
    def finite(self) -> list[float]:
        return [value for value in self.values if math.isfinite(value)]


def loss_chart(history: History, findings: Sequence[Finding]) -> LossChart | None:
    """Return the loss curve; None when no loss was observed."""
    series = history.series("loss/train")
    if not series.steps:
        return None
    bins = _bins(series.steps, series.values)
    finite = [value for each in bins for value in each.finite]
    x = _step_axis(series.steps)
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    log = low > 0 and high / low > LOG_FROM
    y = Axis.around(low if log else min(low, 0.0), high, log=log, most=5)
    reach = max(1, len(bins) // 50)
    return LossChart(
        x=tuple(x.ticks()),
        y=tuple(y.ticks(most=5)),
        line=_line(bins, x, y, reach),
        band=_band(bins, x, y),
        marks=_marks(findings, x),
        gaps=_gaps(bins, x),
        log=log,
        smoothed=(2 * reach + 1) * max(len(each.values) for each in bins),
        text=_text(series.steps, series.values),
    )


def _step_axis(numbers: Sequence[int]) -> Axis:
    """Return an axis from the first to the last step, without empty ends."""
    first, last = min(numbers), max(numbers)
    return Axis(float(first), float(max(last, first + 1)))


def _bins(numbers: Sequence[int], values: Sequence[float]) -> list[_Bin]:
    """Join neighbouring steps so that at most `MOST_POINTS` remain."""
    size = math.ceil(len(numbers) / MOST_POINTS)
    return [
        _Bin(numbers[i], numbers[min(i + size, len(numbers)) - 1], tuple(values[i : i + size]))
        for i in range(0, len(numbers), size)
    ]


def _line(bins: Sequence[_Bin], x: Axis, y: Axis, reach: int) -> str:
    """Draw the centred moving average, interrupted where no loss was finite."""
    points: list[str] = []
    pen_up = True
    for i, each in enumerate(bins):
        near = [v for other in bins[max(0, i - reach) : i + reach + 1] for v in other.finite]
        if not each.finite:
            pen_up = True
            continue
        points.append(f"{'M' if pen_up else 'L'}{_point(each, _mean(near, log=y.log), x, y)}")
        pen_up = False
    return "".join(points)


def _band(bins: Sequence[_Bin], x: Axis, y: Axis) -> str:
    """Draw the outline of the least and the largest loss, one shape for each unbroken stretch."""
    shapes: list[str] = []
    for known, stretch in groupby(bins, key=lambda each: bool(each.finite)):
        if not known:
            continue
        part = list(stretch)
        upper = [_point(each, max(each.finite), x, y) for each in part]
        lower = [_point(each, min(each.finite), x, y) for each in reversed(part)]
        shapes.append(f"M{'L'.join(upper + lower)}Z")
    return "".join(shapes)


def _point(each: _Bin, value: float, x: Axis, y: Axis) -> str:
    across = WIDTH * x.at((each.first + each.last) / 2) / 100
    return f"{across:.1f} {HEIGHT * (1 - y.at(value) / 100):.1f}"


def _mean(values: Sequence[float], *, log: bool) -> float:
    """Average as the axis shows values, so that one spike does not lift a whole log curve."""
    if log:
        return math.exp(sum(math.log(value) for value in values) / len(values))
    return sum(values) / len(values)


def _gaps(bins: Sequence[_Bin], x: Axis) -> tuple[Gap, ...]:
    gaps: list[Gap] = []
    for bad, stretch in groupby(bins, key=lambda each: each.bad > 0):
        if not bad:
            continue
        part = list(stretch)
        start, end = x.at(part[0].first), x.at(part[-1].last)
        lost = sum(each.bad for each in part)
        title = f"{steps(part[0].first, part[-1].last)}: {lost:,} NaN or inf"
        # A single step would be too thin to see.
        width = max(end - start, 0.6)
        gaps.append(Gap(min(start, 100 - width), round(width, 2), title))
    return tuple(gaps)


def _marks(findings: Sequence[Finding], x: Axis) -> tuple[Mark, ...]:
    """Mark where each finding began, marks at one place beneath each other."""
    marks: list[Mark] = []
    for i, finding in enumerate(findings, start=1):
        step = finding.steps[0]
        at = x.at(step)
        # On a phone a mark is about 6 % of the axis wide.
        level = sum(abs(mark.at - at) < 6 for mark in marks)
        title = f"{i} {finding.code}, since step {step:,}"
        marks.append(Mark(at, i, finding.severity, level, title))
    return tuple(marks)


def _text(numbers: Sequence[int], values: Sequence[float]) -> str:
    """Say what the curve shows to whoever cannot see it."""
    bad = sum(not math.isfinite(value) for value in values)
    ends = f"from {number(values[0])} at step {numbers[0]:,} to {number(values[-1])}"
    lost = f"; {count(bad, 'step')} with NaN or inf" if bad else ""
    return f"Training loss {ends} at step {numbers[-1]:,}{lost}"
