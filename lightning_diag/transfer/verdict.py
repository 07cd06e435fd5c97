"""What metrics of several seeds say of two ways to train: intervals, and a verdict. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

Verdict = Literal["transfer helps", "transfer hurts", "no difference", "insufficient data"]

CONFIDENCE = 0.95
"""Of each arm's interval, and of all differences together."""


@dataclass(frozen=True)
class Difference:
    """By how much an arm is better than the one from scratch, seed by seed."""

    arm: str
    """Which."""
    values: tuple[float, ...]
    """Above 0 where it is better, whether the metric is to rise or to fall."""
    mean: float
    """Of them."""
    interval: tuple[float, float]
    """Of the mean; the intervals of all arms hold together with 95 %."""


@dataclass(frozen=True)
class Judgement:
    """A verdict, with what it rests on."""

    verdict: Verdict
    """What it is."""
    arm: str
    """The arm that it is about: the better one of those that transfer."""
    reason: str
    """Why, with its numbers."""


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return Student's interval of a mean; NaN with fewer than two values or one not finite.

    Example:
        >>> low, high = interval([1.0, 2.0, 3.0])
        >>> round(low, 3), round(high, 3)
        (-0.484, 4.484)
    """
    if len(values) < 2 or not all(math.isfinite(value) for value in values):
        return math.nan, math.nan
    mean = fmean(values)
    half = student(len(values) - 1, confidence) * stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def student(freedom: int, confidence: float) -> float:
    """Return the t that a share of Student's distribution lies within, to both sides of 0.

    Example:
        >>> round(student(4, 0.95), 3)
        2.776
    """
    low, high = 0.0, 1.0
    while _within(high, freedom) < confidence:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        if _within(middle, freedom) < confidence:
            low = middle
        else:
            high = middle
    return high


def _within(t: float, freedom: int) -> float:
    """Return the share of Student's distribution between -t and t.

    The finite sums of Abramowitz and Stegun, Handbook of mathematical functions, 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(freedom))
    cosine2 = math.cos(angle) ** 2
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine2 * (k - 1) / k
        total += term
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


def differences(
    arms: Mapping[str, Sequence[float]], scratch: Sequence[float], mode: Literal["max", "min"]
) -> tuple[Difference, ...]:
    """Compare arms with the one from scratch, seed by seed.

    Args:
        arms: Name of each to its metric by seed.
        scratch: The same of the one from scratch.
        mode: Whether a higher or a lower metric is better.
    """
    sign = 1.0 if mode == "max" else -1.0
    # Bonferroni: the verdict is that of the best of them.
    confidence = 1 - (1 - CONFIDENCE) / len(arms)
    found = []
    for name, metric in arms.items():
        values = tuple(sign * (a - b) for a, b in zip(metric, scratch, strict=True))
        found.append(Difference(name, values, fmean(values), interval(values, confidence)))
    return tuple(found)


def judge(
    compared: Sequence[Difference], learned: Sequence[Difference], margin: float
) -> Judgement:
    """Say whether transfer helps.

    It helps if one arm is surely better than training from scratch, hurts if each is surely
    worse, and makes no difference if none is better by more than the margin and one is surely
    within it.

    Args:
        compared: What `differences` gave for the arms that transfer.
        learned: The same for all arms, against the untrained module.
        margin: The smallest difference that matters, at least 0.
    """
    if not all(math.isfinite(value) for each in (*compared, *learned) for value in each.values):
        return Judgement("insufficient data", "", "a metric is not finite: a training diverged")
    best = max(compared, key=lambda each: each.mean)
    told = f"{best.arm} is {signed(best.mean)} {spoken(best.interval)} from training from scratch"
    if not any(each.interval[0] > 0 for each in learned):
        reason = "no arm is surely better than the untrained module: train longer"
        return Judgement("insufficient data", best.arm, reason)
    if any(_is_within(each, margin) for each in compared) and all(
        each.interval[1] < margin for each in compared
    ):
        return Judgement("no difference", best.arm, f"{told}: less than the margin of {margin:g}")
    winners = [each for each in compared if each.interval[0] > 0]
    if winners:
        best = max(winners, key=lambda each: each.mean)
        told = f"{best.arm} is {signed(best.mean)} {spoken(best.interval)}"
        return Judgement("transfer helps", best.arm, f"{told} from training from scratch")
    if all(each.interval[1] < 0 for each in compared):
        return Judgement("transfer hurts", best.arm, told)
    return Judgement("insufficient data", best.arm, f"{told}: more seeds may tell")


def _is_within(difference: Difference, margin: float) -> bool:
    low, high = difference.interval
    return -margin < low and high < margin


def signed(value: float) -> str:
    """Return a number with its sign, to three digits."""
    return f"{value:+.3g}"


def spoken(bounds: tuple[float, float]) -> str:
    """Return an interval in brackets.

    Example:
        >>> spoken((-0.5, 0.25))
        '(-0.5 to +0.25)'
    """
    return f"({signed(bounds[0])} to {signed(bounds[1])})"
