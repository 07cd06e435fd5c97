"""How numbers are written in the payload, and which of many are left out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from lightning_diag.report.words import plain

Value: TypeAlias = float | str | None
"""A number; None was not observed; ``nan``, ``inf`` and ``-inf`` were, and JSON has none such."""

Line: TypeAlias = dict[str, list[Any]]
"""Columns of equal length, ``step`` and ``value`` among them."""

DIGITS = 6
"""Significant digits: what single precision holds."""


def tidy(value: float, digits: int = DIGITS) -> float | str:
    """Write a number as short as JSON can hold it.

    Example:
        >>> tidy(0.12345678), tidy(3.0), tidy(float("nan")), tidy(float("-inf"))
        (0.123457, 3, 'nan', '-inf')
    """
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def tidied(values: Iterable[float], digits: int = DIGITS) -> list[Value]:
    """Write many numbers."""
    return [tidy(value, digits) for value in values]


def spread(n: int, most: int) -> list[int]:
    """Return at most `most` indices below `n`, evenly spread, the first and the last among them.

    Example:
        >>> spread(4, 9), spread(9, 3), spread(9, 1)
        ([0, 1, 2, 3], [0, 4, 8], [8])
    """
    if n <= most:
        return list(range(n))
    if most == 1:
        return [n - 1]
    return [round(i * (n - 1) / (most - 1)) for i in range(most)]


def chosen(names: Sequence[str], most: int, wanted: Iterable[str] = ()) -> list[str]:
    """Return at most `most` names in their order: of those wanted up to half, the rest spread.

    Example:
        >>> chosen(["a", "b", "c", "d", "e", "f"], 4, ["b"])
        ['a', 'b', 'd', 'f']
    """
    if len(names) <= most:
        return list(names)
    asked = set(wanted)
    first = [name for name in names if name in asked][: most // 2]
    others = [name for name in names if name not in set(first)]
    kept = {*first, *(others[i] for i in spread(len(others), most - len(first)))}
    return [name for name in names if name in kept]


def thinned(steps: Sequence[int], values: Sequence[float], most: int) -> list[int]:
    """Return the indices of at most `most` points that keep a curve's shape.

    Of neighbours the least, the largest and the first that is not finite stay, and the ends.

    Example:
        >>> thinned(range(8), [0, 0, 9, 0, 0, 0, 0, 1], 6)
        [0, 2, 7]
    """
    n = len(steps)
    if n <= most:
        return list(range(n))
    size = math.ceil(n / max(1, (most - 2) // 3))
    kept = {0, n - 1}
    for start in range(0, n, size):
        part = range(start, min(start + size, n))
        finite = [i for i in part if math.isfinite(values[i])]
        if finite:
            kept |= {min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)}
        if len(finite) < len(part):
            kept.add(next(i for i in part if not math.isfinite(values[i])))
    return sorted(kept)


def line(steps: Sequence[int], values: Sequence[float], most: int) -> Line:
    """Return a curve as columns of at most `most` points."""
    kept = thinned(steps, values, most)
    return {"step": [steps[i] for i in kept], "value": [tidy(values[i]) for i in kept]}


def harmless(value: Any) -> Any:
    r"""Pass plain values on, with every text such that it cannot steer what shows it.

    Example:
        >>> harmless({"a\u202e": ["b\x1b", 1]})
        {'a\\u202e': ['b\\x1b', 1]}
    """
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {harmless(str(key)): harmless(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [harmless(each) if isinstance(each, str | dict | list) else each for each in value]
    return value
