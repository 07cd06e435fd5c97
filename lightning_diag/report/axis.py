"""Axes: where a value lies, in percent of an axis, and which ticks a reader can use."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_diag.report.words import number

_HUGE = 1e300
"""Largest end of a linear axis: differences and round steps beyond it are no doubles."""


@dataclass(frozen=True)
class Tick:
    """One labelled place on an axis."""

    at: float
    """Percent of the axis, from its start."""
    label: str
    """The value there."""
    minor: bool = False
    """Whether a narrow screen leaves it out."""


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic axis.

    Example:
        >>> axis = Axis.around(0.0, 9.3)
        >>> axis.at(5.0), [tick.label for tick in axis.ticks()]
        (50.0, ['0', '2', '4', '6', '8', '10'])
    """

    low: float
    """Value at 0 %."""
    high: float
    """Value at 100 %."""
    log: bool = False
    """Whether equal factors, not equal differences, are equally long."""

    @classmethod
    def around(cls, low: float, high: float, *, log: bool = False, most: int = 6) -> Axis:
        """Return an axis that holds both values, with ends that `ticks(most)` labels."""
        if log:
            # Powers beyond 308 either way are no doubles.
            first = max(math.floor(math.log10(low)), -308)
            span = max(math.ceil(math.log10(high)) - first, 1)
            every = math.ceil(span / (most - 1))
            last = min(first + every * math.ceil(span / every), 308)
            return cls(10.0**first, 10.0**last, log=True)
        low, high = max(low, -_HUGE), min(high, _HUGE)
        step = round_step(high - low or abs(high) or 1.0, most)
        # Rounding errors must not make an end look beyond its tick.
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        return cls(step * first, step * max(last, first + 1))

    def at(self, value: float) -> float:
        """Return where a value lies, in percent; beyond an end, that end."""
        low, high = self.low, self.high
        value = min(max(value, low), high)
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return round(100 * ((value - low) / (high - low)), 2)

    def ticks(self, most: int = 6) -> list[Tick]:
        """Return round values along the axis, every second one minor."""
        values = self._decades(most) if self.log else self._rounds(most)
        return [
            Tick(self.at(value), number(value), minor=i % 2 == 1) for i, value in enumerate(values)
        ]

    def _decades(self, most: int) -> list[float]:
        first, last = round(math.log10(self.low)), round(math.log10(self.high))
        every = max(1, math.ceil((last - first) / (most - 1)))
        return [10.0**power for power in range(first, last + 1, every)]

    def _rounds(self, most: int) -> list[float]:
        step = round_step(self.high - self.low, most)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


def round_step(span: float, most: int = 6) -> float:
    """Return the smallest step of 1, 2 or 5 times a power of ten with at most `most` ticks.

    Example:
        >>> round_step(1000.0), round_step(0.7)
        (200.0, 0.2)
    """
    raw = span / (most - 1)
    power: float = 10.0 ** math.floor(math.log10(raw))
    factor = next(f for f in (1, 2, 5, 10) if f * power >= raw * (1 - 1e-9))
    return factor * power
