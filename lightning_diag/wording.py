"""How findings write numbers and places."""

from __future__ import annotations

from collections.abc import Sequence


def shown(value: float) -> str:
    """Write a number with three significant digits.

    Example:
        >>> shown(0.001234), shown(12345.6), shown(2.3e9)
        ('0.00123', '12,300', '2.3e+09')
    """
    if 1000 <= abs(value) < 1e6:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


def listing(places: Sequence[str], most: int = 3) -> str:
    """Write some places, and how many more there are.

    Example:
        >>> listing(["a", "b", "c", "d"], most=2)
        '`a`, `b` and 2 more'
    """
    names = [f"`{place}`" for place in places[:most]]
    if len(places) > most:
        return f"{', '.join(names)} and {len(places) - most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
