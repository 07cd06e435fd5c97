"""What `LayerFreezing` says: which layers thaw when, and the table of their groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Row:
    """A unit of layers."""

    name: str
    layers: int
    """Modules with parameters of their own."""
    parameters: int
    trains: str
    """``yes``, or from when on."""
    lr: str
    """That steps are taken with; several where several optimizers have it."""


_HEAD = ("group", "layers", "parameters", "trains", "lr")


def table(rows: Sequence[Row]) -> str:
    """Return rows as text, numbers to the right.

    Example:
        >>> print(table([Row("head", 1, 5130, "yes", "0.1"), Row("body", 20, 11176512, "no", "")]))
        group  layers  parameters  trains   lr
        head        1       5,130  yes     0.1
        body       20  11,176,512  no
    """
    cells = [_HEAD, *((r[0], str(r[1]), f"{r[2]:,}", r[3], r[4]) for r in map(astuple, rows))]
    widths = [max(len(row[i]) for row in cells) for i in range(len(_HEAD))]
    lines = []
    for row in cells:
        aligned = [
            text.ljust(width) if i in (0, 3) else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)


def when(start: float, counter: str) -> str:
    """Say when an entry thaws.

    Example:
        >>> when(3, "epoch"), when(math.inf, "epoch")
        ('epoch 3', 'never')
    """
    if math.isnan(start):
        return "on a plateau"
    if math.isinf(start):
        return "never"
    return f"{counter} {start:.0f}"
