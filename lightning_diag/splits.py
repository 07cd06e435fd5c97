"""Whether the samples of two splits look alike, from their means and standard deviations."""

from __future__ import annotations

import math
from typing import NamedTuple

from lightning_diag.wording import shown


class Side(NamedTuple):
    """What a tensor of the batch looks like in one split."""

    mean: float
    std: float
    mean_error: float
    """Standard error of the mean."""
    std_error: float
    """Standard error of the standard deviation."""
    samples: float


class Limits(NamedTuple):
    """How far splits may differ."""

    shift: float
    """Difference of the means, in standard deviations of the first."""
    factor: float
    """Ratio of the standard deviations, at least 1."""
    errors: float
    """Standard errors that either must be, too."""


class Difference(NamedTuple):
    """How two splits differ."""

    value: float
    threshold: float
    text: str
    """The same, as a part of a sentence."""


def difference(train: Side, held: Side, limits: Limits) -> Difference | None:
    """Return how two splits differ, by the larger of shift and factor; None if they are alike.

    Example:
        >>> one, other = Side(0.0, 1.0, 0.1, 0.1, 99), Side(2.0, 1.0, 0.1, 0.1, 99)
        >>> difference(one, other, Limits(0.75, 1.6, 6.0)).text
        'their means differ by 2 standard deviations'
        >>> difference(one, one, Limits(0.75, 1.6, 6.0))
    """
    apart, times = gap(train.mean, held.mean, train.std), ratio(train.std, held.std)
    mean_noise = gap(math.hypot(train.mean_error, held.mean_error), 0.0, train.std)
    std_noise = math.hypot(*(_relative(side) for side in (train, held)))
    is_moved = apart >= limits.shift and apart >= limits.errors * mean_noise
    is_scaled = times >= limits.factor and math.log(times) >= limits.errors * std_noise
    if is_scaled and (not is_moved or times / limits.factor > apart / limits.shift):
        text = f"their standard deviations differ by a factor of {shown(times)}"
        return Difference(times, limits.factor, text)
    if is_moved:
        text = f"their means differ by {shown(apart)} standard deviations"
        return Difference(apart, limits.shift, text)
    return None


def gap(one: float, other: float, std: float) -> float:
    """Return a difference in standard deviations."""
    if one == other:
        return 0.0
    return abs(one - other) / std if std > 0 else math.inf


def ratio(one: float, other: float) -> float:
    """Return how many times the larger one is the smaller one."""
    low, high = sorted((one, other))
    return 1.0 if low == high else high / low if low > 0 else math.inf


def _relative(side: Side) -> float:
    """Return the relative error of a standard deviation; that of a normal one at least."""
    least = 1 / math.sqrt(2 * side.samples)
    return max(least, side.std_error / side.std) if side.std > 0 else least
