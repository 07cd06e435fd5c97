"""Swings of a loss: how they are told from its trend, and from noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median

from lightning_diag.rules.course import Course

_LAGS = 32
"""Longest half swing that is looked for, in steps (our choice)."""
_FALL = 0.05
"""Share of the first loss by which it must fall in a quarter of the run to be called falling (our
choice): a run that still learns, however noisy, does."""


def falls(course: Course, scale: float) -> bool:
    """Return whether the newest quarter of the run lies lower than those before, and the start."""
    quarter = max(1, len(course.levels) // 4)
    newest = median(x.middle for x in course.levels[-quarter:])
    before = [
        median(x.middle for x in course.levels[end - quarter : end])
        for end in range(len(course.levels) - quarter, quarter - 1, -quarter)
    ]
    return newest < min([course.start, *before]) - _FALL * scale


def calm_noise(course: Course) -> float:
    """Return the noise of the losses when they were calmest."""
    sigmas = sorted(level.sigma for level in course.levels if level.middle < math.inf)
    return sigmas[len(sigmas) // 8] if sigmas else 0.0


def zigzag(values: Sequence[float], least: float) -> list[int]:
    """Return where values turn, from the first low on: each turn `least` or more from the last.

    Low, high, low and so on, the newest last.

    Example:
        >>> zigzag([5.0, 1.0, 1.5, 4.0, 3.5, 2.0, 6.0], least=1.0)
        [1, 3, 5, 6]
        >>> zigzag([3.0, 2.0, 1.0], least=1.0)
        [2]
    """
    turns = [0]
    for i, value in enumerate(values):
        last, rises = values[turns[-1]], len(turns) % 2 == 0
        if value >= last if rises else value <= last:
            turns[-1] = i
        elif abs(value - last) >= least:
            turns.append(i)
    return turns


def detrended(values: Sequence[float]) -> list[float]:
    """Return values less the straight line that fits them best.

    Example:
        >>> detrended([1.0, 2.0, 3.0])
        [0.0, 0.0, 0.0]
    """
    n, mean = len(values), fmean(values)
    middle = (n - 1) / 2
    square = sum((i - middle) ** 2 for i in range(n))
    slope = sum((i - middle) * value for i, value in enumerate(values)) / square
    return [value - mean - slope * (i - middle) for i, value in enumerate(values)]


def opposite(values: Sequence[float]) -> tuple[int, float]:
    """Return the distance at which values correlate most with their opposite, and how much.

    Example:
        >>> opposite([1.0, -1.0] * 32)
        (1, -1.0)
    """
    square = fmean(value * value for value in values)
    if square == 0:
        return 1, 0.0
    found = []
    for lag in range(1, min(_LAGS, len(values) // 2) + 1):
        products = [a * b for a, b in zip(values, values[lag:], strict=False)]
        found.append((fmean(products) / square, lag))
    worst = min(found)[0]
    if worst >= 0:
        return 1, worst
    # A wave is its own opposite again and again: the first time is half of it.
    lag = next(lag for correlation, lag in found if correlation <= 0.9 * worst)
    return lag, worst
