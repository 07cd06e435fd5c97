"""The noise scale as a ratio of means, from estimates at single steps, and its interval (W15).

The gradient of b samples is the true one, G, plus noise; its squared norm is |G|^2 + tr(S) / b on
average, where S is the covariance of one sample's gradient. Two batch sizes give both unknowns
without bias, and tr(S) / |G|^2 is the noise scale (McCandlish et al. 2018, arXiv:1812.06162,
appendix A.1). Each of the two is noisy, and the ratio of two noisy numbers is biased; so their
means are taken first, and divided then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

_LEAST = 4
"""Our choice: estimates that a ratio of means rests on, at least."""


class Estimate(NamedTuple):
    """Both parts of the noise scale at one step, without bias."""

    trace: float
    """Of the covariance of one sample's gradient, tr(S); below 0 by chance."""
    signal: float
    """Squared norm of the true gradient, |G|^2; below 0 by chance, and often so."""


def two_batch_estimate(small: float, big: float, batch: float, groups: float) -> Estimate:
    """Return both parts of the noise scale from two batch sizes.

    Args:
        small: Mean squared norm of the groups' gradients.
        big: Squared norm of the mean of these gradients.
        batch: Samples of a group: the harmonic mean, if they differ.
        groups: How many there are, at least 2.

    Example:
        >>> two_batch_estimate(3.0, 2.0, 8, 2)
        Estimate(trace=16.0, signal=1.0)
    """
    return Estimate(
        trace=(small - big) * batch * groups / (groups - 1),
        signal=(groups * big - small) / (groups - 1),
    )


@dataclass(frozen=True)
class NoiseScale:
    """The noise scale, in samples, with the interval that holds it 95 times in 100."""

    samples: float | None
    """Ratio of the means, 0 or more; None while the mean signal is not above 0."""
    low: float
    """Lower end, 0 or more."""
    high: float
    """Upper end, infinite where the signal cannot be told from 0."""
    estimates: int
    """How many it rests on."""


def noise_scale_of(estimates: Sequence[Estimate]) -> NoiseScale | None:
    """Return the ratio of the mean trace to the mean signal; None with fewer than 4 estimates.

    The interval is Fieller's, which holds for a ratio of means also where the lower one may be 0.

    Example:
        >>> noise_scale_of([Estimate(30.0, 1.0), Estimate(50.0, 1.0)] * 4).samples
        40.0

    References:
        E. C. Fieller, Some Problems in Interval Estimation, 1954, JRSS B 16(2).
    """
    n = len(estimates)
    if n < _LEAST:
        return None
    trace = math.fsum(e.trace for e in estimates) / n
    signal = math.fsum(e.signal for e in estimates) / n
    spread = 1 / (n * (n - 1))
    traces = spread * math.fsum((e.trace - trace) ** 2 for e in estimates)
    signals = spread * math.fsum((e.signal - signal) ** 2 for e in estimates)
    both = spread * math.fsum((e.trace - trace) * (e.signal - signal) for e in estimates)
    t = _quantile(n - 1)
    low, high = _fieller((trace, signal), (traces, signals, both), t * t)
    return NoiseScale(max(0.0, trace / signal) if signal > 0 else None, low, high, n)


def _fieller(
    means: tuple[float, float], variances: tuple[float, float, float], t2: float
) -> tuple[float, float]:
    """Return the ratios r of at least 0 for which mean trace - r * mean signal may be 0.

    They solve a r^2 - 2 b r + c <= 0. For a <= 0 the signal cannot be told from 0.
    """
    (trace, signal), (traces, signals, both) = means, variances
    a = signal * signal - t2 * signals
    b = trace * signal - t2 * both
    c = trace * trace - t2 * traces
    root = math.sqrt(max(0.0, b * b - a * c))
    if a > 0:
        if signal < 0:  # below 0 by chance: no noise scale, however large, explains it
            return 0.0, math.inf
        return max(0.0, (b - root) / a), max(0.0, (b + root) / a)
    if c <= 0 or trace <= 0:
        return 0.0, math.inf
    # every ratio from the one at which the trace is as large as it may be
    ends = [] if a == 0 else [(b - root) / a, (b + root) / a]
    ends = [c / (2 * b)] if a == 0 and b > 0 else ends
    return min((end for end in ends if end > 0), default=0.0), math.inf


def _quantile(freedom: int) -> float:
    """Return the 97.5th percentile of Student's t, right to 1 % from 3 degrees of freedom on.

    The expansion of Abramowitz and Stegun, 26.7.5.

    Example:
        >>> round(_quantile(9), 2)
        2.26
    """
    z = 1.959964
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + math.fsum(term / freedom**i for i, term in enumerate(terms, start=1))
