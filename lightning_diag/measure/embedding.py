"""Rows of an embedding: which of them ever got a gradient, and how alike they are (H7)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_diag.measure.moments import plain
from lightning_diag.measure.weight import projections

MOST_ROWS = 65_536
"""Rows of a table that are followed, evenly spread: 256 KB. Our choice."""
_COMPARED = 256
"""Rows whose likeness is measured, evenly spread (our choice)."""
_TURNED = 1e-4
"""Turn from which on a row has moved, in radians: what rounding does stays below, and an
update of a thousandth of the row is ten times as much (our choice)."""


def headings(table: Tensor) -> Tensor:
    """Return for each of at most 65,536 rows an angle that no scaling changes.

    Weight decay shrinks all rows of a table, those that get a gradient also turn.

    Shape:
        ``(rows, features)`` -> ``(rows,)`` on the CPU.
    """
    shadow = projections(_spread(plain(table), MOST_ROWS)).double()
    return torch.atan2(shadow[:, 1], shadow[:, 0]).float().cpu()


def turned(before: Tensor, table: Tensor) -> float:
    """Return the share of the rows that have turned.

    Example:
        >>> table = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
        >>> before = headings(table)
        >>> turned(before, 0.9 * table), turned(before, table + torch.tensor([[0], [0], [0], [1]]))
        (0.0, 0.25)
    """
    difference = (headings(table) - before).abs()
    apart = torch.minimum(difference, 2 * math.pi - difference) > _TURNED
    return float(apart.double().mean())


def asked_for(gradient: Tensor | None, rows: int) -> float:
    """Return the share of the rows, of at most 65,536, that a gradient reaches.

    Example:
        >>> asked_for(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), 2)
        0.5
    """
    if gradient is None:
        return 0.0
    gradient = gradient.detach()
    if gradient.layout is torch.sparse_coo:
        gradient = gradient.coalesce()
        used = gradient.indices()[0][(gradient.values() != 0).any(dim=-1)]
        stride = max(1, math.ceil(rows / MOST_ROWS))
        return int((used % stride == 0).sum()) / math.ceil(rows / stride)
    return float((_spread(plain(gradient), MOST_ROWS) != 0).any(dim=1).double().mean())


def likeness(table: Tensor) -> tuple[float, float] | None:
    """Return the mean cosine between two rows, and the spread of their norms over the mean norm.

    Of at most 256 rows, evenly spread; rows that are all zero are left out. None with fewer than
    two others, or where a row is not finite.

    Example:
        >>> likeness(torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 0.0]]))
        (1.0, 0.5)
    """
    rows = _spread(plain(table), _COMPARED).double().cpu()
    norms = torch.linalg.vector_norm(rows, dim=1)
    rows, norms = rows[norms > 0], norms[norms > 0]
    count = len(norms)
    if count < 2 or not math.isfinite(float(norms.sum())):
        return None
    squares = float((rows / norms[:, None]).sum(dim=0).square().sum())
    cosine = (squares - count) / (count * (count - 1))
    return cosine, float(norms.std(correction=0) / norms.mean())


def _spread(table: Tensor, most: int) -> Tensor:
    """Return at most so many rows, evenly spread."""
    return table[:: max(1, math.ceil(len(table) / most))]
