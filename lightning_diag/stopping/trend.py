"""Levels and trends of a noisy series: what is signal, and what may be noise.

Pure functions of numbers, for metrics that come once a validation: few, noisy, and alike from one
to the next. The noise is taken for an autoregression of first order, which is measured as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from statistics import NormalDist, fmean
from typing import Literal

Average = Literal["mean", "ema"]
Verdict = Literal["rising", "flat", "falling", "insufficient data"]

LEAST = 10
"""Values that a trend, or the correlation of neighbours, is read from at least. Our choice: with
8 straight-line falls of a clean curve are missed; docs/learning-rate/stopping.md shows the rates
of false alarms."""
MOST_CORRELATION = 0.6
"""Largest correlation of neighbours that is corrected for. Our choice: beyond that a curve that
bends looks the same as noise, and smooth falls would be called flat."""
SPAN = 3
"""Windows that the noise is read from. Our choice: one alone holds too few values."""


@dataclass(frozen=True)
class Noise:
    """What is left of a series when a straight line is taken away."""

    deviation: float
    """Its standard deviation; 0 of fewer than three values."""
    correlation: float
    """Of neighbours, 0 to 0.6; 0 of fewer than ten values, which cannot show it."""


@dataclass(frozen=True)
class Level:
    """The average of a window, and how far noise may have moved it."""

    value: float
    """The average."""
    error: float
    """Its standard error, corrected for the correlation of neighbours where that is known."""
    count: int
    """Values that it rests on."""
    correlation: float
    """What it was corrected for; 0: not corrected."""


@dataclass(frozen=True)
class Trend:
    """Whether a series rises or falls by more than noise does."""

    verdict: Verdict
    """The answer."""
    value: float
    """Standard score of Mann and Kendall's test, corrected for the correlation of neighbours;
    above 0 for a rise; NaN without enough values."""
    threshold: float
    """What its absolute value was compared with."""
    window: int
    """Values that were looked at."""
    count: int
    """Finite values among them."""


def noise_of(values: Sequence[float]) -> Noise:
    """Measure the noise of finite values around a straight line.

    The correlation is corrected for its bias in short series, which for residuals of a line is
    about -(2 + 4 r) / n.

    Example:
        >>> noise_of([3.0, 2.0, 1.0])  # a line has none
        Noise(deviation=0.0, correlation=0.0)

    References:
        van Giersbergen, Bias correction in a stable AD(1,1) model, 2005 (the bias with a trend).
    """
    n = len(values)
    if n < 3:
        return Noise(0.0, 0.0)
    rest = _around_line(values)
    power = math.fsum(x * x for x in rest)
    # What rounding leaves of a line is no noise.
    if power <= (1e-12 * max(map(abs, values))) ** 2 * n:
        return Noise(0.0, 0.0)
    together = math.fsum(x * y for x, y in pairwise(rest))
    shown = (n * together / power + 2) / (n - 4) if n >= LEAST else 0.0
    return Noise(math.sqrt(power / (n - 2)), min(max(shown, 0.0), MOST_CORRELATION))


def level_of(values: Sequence[float], window: int, *, average: Average = "mean") -> Level | None:
    """Average the newest values, and say how sure that is.

    The noise is that of the newest three windows (at least ten values): a window alone has too
    few to tell. The error is that of a weighted mean of correlated values,
    sqrt(sum over i, j of w_i w_j r^|i - j|) standard deviations.

    Args:
        values: Finite, oldest first.
        window: Newest values that count, at least 2.
        average: ``mean`` weighs them alike; ``ema`` weighs all values, each newer one more, by
            alpha = 2 / (window + 1), with the same mean age.

    Returns:
        None while there are fewer than `window` values.

    Example:
        >>> level_of([9.0, 1.0, 3.0], 2)
        Level(value=2.0, error=2.886..., count=2, correlation=0.0)
    """
    if len(values) < window:
        return None
    noise = noise_of(values[-max(SPAN * window, LEAST) :])
    weights = _weights(len(values), window, average)
    used = values[-len(weights) :]
    # Subtracted first, so that equal values average to themselves, to the last bit.
    value = used[-1] + math.fsum(w * (x - used[-1]) for w, x in zip(weights, used, strict=True))
    return Level(value, noise.deviation * _spread(weights, noise.correlation), len(used),
                 noise.correlation)  # fmt: skip


def is_better(
    new: Level, best: Level, *, rises: bool = False, margin: float = 0.0, confidence: float = 0.95
) -> bool:
    """Say whether a level is better than the best one by more than noise and `margin`.

    Args:
        rises: Whether larger is better.
        margin: What it must be better by besides, at least 0.
        confidence: Of the one-sided test of the difference, 0.5 (noise is ignored) to 1.

    Example:
        >>> best, new = Level(1.0, 0.1, 5, 0.0), Level(0.8, 0.1, 5, 0.0)
        >>> is_better(new, best), is_better(new, best, confidence=0.9)
        (False, True)
    """
    gain = new.value - best.value if rises else best.value - new.value
    return gain > margin + needed(new, best, confidence)


def needed(new: Level, best: Level, confidence: float) -> float:
    """Return how far two levels must be apart so that noise alone is unlikely to be the reason."""
    return quantile(confidence) * math.hypot(new.error, best.error)


def quantile(confidence: float) -> float:
    """Return the standard normal quantile.

    Example:
        >>> round(quantile(0.95), 3)
        1.645
    """
    return NormalDist().inv_cdf(confidence)


def trend(values: Sequence[float], *, window: int | None = None, confidence: float = 0.95) -> Trend:
    """Tell a rise or a fall of the newest values from noise.

    Mann and Kendall's test counts the pairs of which the later one is larger, so that neither the
    scale of the values nor a few outliers matter; the variance is inflated by (1 + r) / (1 - r),
    where r is the correlation of neighbours. A loss that fell and now rises (a U) is "falling" in
    its first part and "rising" in its last: ask for the `window` since its lowest level.

    Args:
        values: Oldest first; those that are not finite are left out.
        window: Newest values to look at, at least 10; None takes all.
        confidence: Of each of the two one-sided tests, above 0.5 and below 1.

    Raises:
        ValueError: If `window` or `confidence` is out of range.

    Example:
        >>> trend([5, 4, 3, 3.2, 3.1, 3.6, 3.5, 4, 4.3, 4.2, 4.8, 5.1], window=10).verdict
        'rising'
        >>> trend([1.0, 2.0, 3.0]).verdict
        'insufficient data'

    References:
        Mann, Nonparametric tests against trend, Econometrica 13, 1945.
        Kendall, Rank Correlation Methods, 1975.
        Yue and Wang, The Mann-Kendall test modified by effective sample size to detect trend in
        serially correlated hydrological series, Water Resources Management 18, 2004.
    """
    require_confidence(confidence, above=True)
    if window is not None and window < LEAST:
        raise ValueError(f"`window` must be at least {LEAST} values or None, got {window}.")
    newest = list(values if window is None else values[-window:])
    finite = [float(value) for value in newest if math.isfinite(value)]
    limit = quantile(confidence)
    if len(finite) < LEAST:
        return Trend("insufficient data", math.nan, limit, len(newest), len(finite))
    score = _mann_kendall(finite) / _inflation(noise_of(finite).correlation)
    verdict: Verdict = "rising" if score > limit else "falling" if score < -limit else "flat"
    return Trend(verdict, score, limit, len(newest), len(finite))


def is_rising(
    values: Sequence[float], *, window: int | None = None, confidence: float = 0.95
) -> bool:
    """Say whether `trend` answers "rising"; too few values do not.

    Example:
        >>> is_rising(range(10)), is_rising(range(9))
        (True, False)
    """
    return trend(values, window=window, confidence=confidence).verdict == "rising"


def require_confidence(confidence: float, *, above: bool = False) -> None:
    """Refuse a confidence that no one-sided test has.

    Args:
        above: Whether 0.5, at which noise is ignored, is refused, too.

    Raises:
        ValueError: If it is out of range.
    """
    if not (0.5 < confidence < 1 or (confidence == 0.5 and not above)):
        kind = "above 0.5" if above else "at least 0.5"
        raise ValueError(f"`confidence` must be {kind} and below 1, got {confidence}.")


def _around_line(values: Sequence[float]) -> list[float]:
    """Return what a least-squares line leaves."""
    n, middle = len(values), (len(values) - 1) / 2
    mean = fmean(values)
    slope = math.fsum((i - middle) * (x - mean) for i, x in enumerate(values))
    slope /= n * (n * n - 1) / 12
    return [x - mean - slope * (i - middle) for i, x in enumerate(values)]


def _weights(count: int, window: int, average: Average) -> list[float]:
    """Return the weights of the newest values, oldest first; they add up to 1."""
    if average == "mean":
        return [1 / window] * window
    keep = 1 - 2 / (window + 1)
    raw = [keep**age for age in range(min(count, 4 * SPAN * window))][::-1]
    total = math.fsum(raw)
    return [weight / total for weight in raw]


def _spread(weights: Sequence[float], correlation: float) -> float:
    """Return the standard deviation of a weighted mean of values of deviation 1."""
    total = math.fsum(weight * weight for weight in weights)
    for lag in range(1, len(weights)) if correlation else ():
        pairs = math.fsum(a * b for a, b in zip(weights, weights[lag:], strict=False))
        total += 2 * pairs * correlation**lag
    return math.sqrt(total)


def _mann_kendall(values: Sequence[float]) -> float:
    """Return the standard score of Kendall's S, with ties and continuity corrected for."""
    n = len(values)
    s = sum((b > a) - (b < a) for a, b in combinations(values, 2))
    ties = [values.count(value) for value in set(values)]
    variance = (_pairs(n) - sum(_pairs(t) for t in ties)) / 18
    return 0.0 if variance <= 0 or s == 0 else (s - math.copysign(1, s)) / math.sqrt(variance)


def _pairs(n: int) -> int:
    return n * (n - 1) * (2 * n + 5)


def _inflation(correlation: float) -> float:
    return math.sqrt((1 + correlation) / (1 - correlation))
