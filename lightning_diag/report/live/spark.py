"""`spark`: a curve as a row of letters."""

from __future__ import annotations

import math
from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.-~=+*#"


def spark(levels: Sequence[float], bars: str = BARS, *, is_log: bool = False) -> str:
    """Draw numbers as a row of bars, the lowest at the bottom; what is not finite is a ``!``.

    Example:
        >>> spark([0, 1, 2, 7, float("nan")])
        '▁▂▃█!'
        >>> spark([1e-4, 1e-3, 1e-2], is_log=True)
        '▁▅█'
    """
    if is_log:
        levels = [math.log10(v) if v > 0 else (-math.inf if v == 0 else v) for v in levels]
    finite = [level for level in levels if math.isfinite(level)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    top = len(bars) - 1
    scale = top / (high - low) if high > low else 0.0
    return "".join(
        bars[math.floor((level - low) * scale + 0.5)]
        if math.isfinite(level)
        else bars[0]
        if level == -math.inf
        else "!"
        for level in levels
    )
