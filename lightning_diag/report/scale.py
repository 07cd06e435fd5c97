"""Colour scales: which of a few classes a number falls into, and what the legend says."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lightning_diag.report.words import number, percent

COLOURS = 9
"""Steps of the sequential palette: as many as an eye can tell apart in a legend."""

NOT_OBSERVED, ZERO, NONFINITE = "u", "z", "x"
"""Style classes of cells that hold no number on the scale."""


@dataclass(frozen=True)
class Swatch:
    """One entry of a legend."""

    style: str
    """Style class of the cells that look like this."""
    label: str
    """What they mean."""


@dataclass(frozen=True)
class Scale:
    """Classes of numbers, each with a colour.

    Example:
        >>> scale = fractions()
        >>> scale.style(0.5), scale.style(0.0), scale.style(float("nan")), scale.style(None)
        ('q6', 'z', 'x', 'u')
    """

    edges: tuple[float, ...]
    """Where one class ends and the next begins, rising."""
    styles: tuple[str, ...]
    """Style class of each class, one more than edges."""
    labels: tuple[str, ...]
    """What the legend says of each class."""

    def style(self, value: float | None) -> str:
        """Return the style class of a number; None was not observed."""
        if value is None:
            return NOT_OBSERVED
        if not math.isfinite(value):
            return NONFINITE
        return ZERO if value == 0 else self.styles[bisect_right(self.edges, value)]

    def legend(self, used: Iterable[str]) -> list[Swatch]:
        """Return the classes in rising order, and what else occurs among the cells."""
        shown = set(used)
        special = {ZERO: "exactly 0", NONFINITE: "NaN or inf", NOT_OBSERVED: "not observed"}
        rows = [Swatch(style, label) for style, label in zip(self.styles, self.labels, strict=True)]
        return rows + [Swatch(style, text) for style, text in special.items() if style in shown]


def fractions() -> Scale:
    """Return a scale for shares, finer where a share begins to matter. The edges are our choice."""
    edges = (0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
    return Scale(edges, _spread(len(edges) + 1), _range_labels(edges, percent))


def update_ratios() -> Scale:
    """Return a scale for update ratios that is neutral around 1e-3.

    That 1e-3 is about right is Stanford's CS231n, "Neural Networks Part 3", ratio of weights to
    updates. Half a decade to each side as neutral is our choice: "about" is no sharper than that.
    """
    edges = (3e-6, 3e-5, 3e-4, 3e-3, 3e-2, 3e-1)
    return Scale(edges, tuple(f"d{i}" for i in range(7)), _range_labels(edges))


def magnitudes(values: Iterable[float]) -> Scale:
    """Return a logarithmic scale that spans the positive finite numbers among `values`."""
    positive = [value for value in values if 0 < value < math.inf]
    if not positive:
        return Scale((), ("q0",), ("above 0",))
    low, high = _widen(min(positive), max(positive))
    edges = next(found for found in _ladders(low, high) if len(found) < COLOURS)
    return Scale(edges, _spread(len(edges) + 1), _range_labels(edges))


def _widen(low: float, high: float) -> tuple[float, float]:
    """Widen a range to two decades, so that numbers which are nearly alike look alike."""
    missing = 2 - (math.log10(high) - math.log10(low))
    if missing <= 0:
        return low, high
    return low / 10 ** (missing / 2), high * 10 ** (missing / 2)


def _ladders(low: float, high: float) -> Iterator[tuple[float, ...]]:
    """Yield ever coarser series of round numbers strictly inside a range."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    mantissas: Sequence[tuple[int, ...]] = ((1, 2, 5), (1, 3), (1,))
    for series in mantissas:
        powers = range(first, last + 1)
        rungs = (float(f"{m}e{power}") for power in powers for m in series)
        yield tuple(rung for rung in rungs if low < rung <= high)
    # Doubles span about 630 decades, so the coarsest of these leaves six edges.
    for every in (2, 3, 5, 10, 20, 50, 100):
        powers = range(every * math.ceil(first / every), last + 1, every)
        rungs = (float(f"1e{power}") for power in powers if -308 <= power <= 308)
        yield tuple(rung for rung in rungs if low < rung <= high)


def _spread(classes: int) -> tuple[str, ...]:
    """Spread a few classes over the whole palette."""
    return tuple(f"q{round(i * (COLOURS - 1) / (classes - 1))}" for i in range(classes))


def _range_labels(
    edges: tuple[float, ...], write: Callable[[float], str] = number
) -> tuple[str, ...]:
    """Name each class by its bounds."""
    bounds = [write(edge) for edge in edges]
    between = [f"{low} to {high}" for low, high in pairwise(bounds)]
    return (f"< {bounds[0]}", *between, f"≥ {bounds[-1]}")
