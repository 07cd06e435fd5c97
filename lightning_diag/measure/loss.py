"""Noise level and spikes of a loss curve, from plain numbers (W10)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import median

_DEVIATION = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
_TENTHS = 2.5631
"""Range of a normal distribution without its upper and lower tenth, in standard deviations."""


def trend_noise(losses: Sequence[float]) -> float | None:
    """Return the standard deviation of `losses` around their local trend, over their level.

    The trend is removed by second differences, whose median absolute value is robust against
    spikes: for independent noise of deviation s it is 0.6745 * sqrt(6) * s. None with fewer than
    8 finite losses, or a level of 0.

    Example:
        >>> trend_noise([1.0 - 0.01 * i for i in range(20)])  # a straight line has no noise
        0.0
    """
    finite = [value for value in losses if math.isfinite(value)]
    level = abs(median(finite)) if finite else 0.0
    if len(finite) < 8 or level == 0.0:
        return None
    seconds = [
        abs(after - 2 * here + before)
        for before, here, after in zip(finite, finite[1:], finite[2:], strict=False)
    ]
    noise = _DEVIATION * median(seconds) / math.sqrt(6) / level
    return 0.0 if noise < 1e-12 else noise


class SpikeCounter:
    """Counts losses far above what the steps before them lead to expect.

    A loss is a spike when it exceeds the median of the last `window` by `deviations` of their
    robust standard deviation, or is not finite. Robust means from the median deviation, or from
    the range without its tenths where that is wider: losses of two kinds that take turns are none.

    Args:
        window: Steps that make up the band, at least 8.
        deviations: Width of the band. Six (our choice) is passed by chance once in 10^9 steps of
            normal noise, and rarely by the skewed noise of small batches.

    Example:
        >>> counter = SpikeCounter(window=8, deviations=6.0)
        >>> sum(counter.is_spike(loss) for loss in [1.0, 1.1] * 8 + [9.0])
        1
    """

    def __init__(self, window: int = 64, deviations: float = 6.0) -> None:
        self.window = window
        self.deviations = deviations
        self.recent: deque[float] = deque(maxlen=window)

    def is_spike(self, loss: float) -> bool:
        """Judge one loss and remember it, if it is finite."""
        if not math.isfinite(loss):
            return True
        spike = False
        if len(self.recent) >= min(self.window, 8):
            centre = median(self.recent)
            spread = _DEVIATION * median(abs(value - centre) for value in self.recent)
            ordered = sorted(self.recent)
            tenth = len(ordered) // 10
            bulk = (ordered[-1 - tenth] - ordered[tenth]) / _TENTHS if tenth else 0.0
            spread = max(spread, bulk, 1e-3 * abs(centre))
            spike = loss > centre + self.deviations * spread
        self.recent.append(loss)
        return spike
