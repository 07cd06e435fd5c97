"""What batches look like: their tensors, and the moments of their samples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_diag.measure.base import Columns
from lightning_diag.measure.moments import extremes, wide

_ELEMENTS = 65_536
"""Elements that statistics of features and of samples are taken from (our choice): enough for three
digits, and no more work for large images than for small ones."""
_ROUNDING = 1e-12
"""Relative variance of the means of samples below which it is that of rounding to float32."""
_LEAVES = 16
"""Tensors of a batch that are looked at."""
_DEPTH = 4
"""Levels of containers in a batch that are looked into."""
_NODES = 256
"""Members of containers that are looked at, in all."""


def thinned(x: Tensor, *, keep_last: bool = False) -> Tensor:
    """Return a part of the elements, evenly spread: few positions rather than few samples.

    Args:
        x: Anything.
        keep_last: Leave the last dimension whole.

    Example:
        >>> thinned(torch.zeros(8, 3, 512, 512)).shape
        torch.Size([8, 3, 171, 8])
    """
    inner = list(range(1, x.dim() - keep_last))[::-1]
    first = [0] if x.dim() > keep_last else []
    wishes = [(inner, 16), (first, 256), (inner, 1), (first, 1)]
    for dim, least in [(dim, least) for dims, least in wishes for dim in dims]:
        if x.numel() <= _ELEMENTS:
            break
        x = _strided(x, dim, least)
    return x


def _strided(x: Tensor, dim: int, least: int) -> Tensor:
    """Return every so-manieth slice along a dimension, but `least` of them if there are."""
    excess = math.ceil(x.numel() / _ELEMENTS)
    stride = min(excess, max(1, x.shape[dim] // least))
    return x if stride <= 1 else x[(slice(None),) * dim + (slice(None, None, stride),)]


def leaves(batch: Any) -> list[tuple[str, Tensor]]:
    """Return name and tensor of at most 16 tensors of a batch, whatever it is.

    Looks into mappings, lists, tuples, dataclasses and the attributes of other objects, and never
    at an iterator, which would lose what it gives. What cannot be read is left out.

    Example:
        >>> [name for name, _ in leaves({"image": torch.zeros(2), "more": [torch.ones(1), "x"]})]
        ['image', 'more.0']
    """
    found: list[tuple[str, Tensor]] = []
    nodes = 0
    waiting: list[tuple[str, Any, int]] = [("", batch, 0)]
    while waiting and len(found) < _LEAVES and nodes < _NODES:
        name, node, depth = waiting.pop(0)
        nodes += 1
        if isinstance(node, Tensor):
            found.append((name or "batch", node))
        elif depth < _DEPTH:
            members = _members(node)
            waiting[:0] = [(f"{name}.{k}" if name else k, v, depth + 1) for k, v in members]
    return found


def _members(node: Any) -> list[tuple[str, Any]]:
    if node is None or isinstance(node, (str, bytes, int, float, complex, type)):
        return []
    try:
        if isinstance(node, Mapping):
            pairs = zip(list(node)[:_NODES], range(_NODES), strict=False)
            return [(str(key), node[key]) for key, _ in pairs]
        if isinstance(node, (list, tuple)):
            names = getattr(node, "_fields", None) or range(len(node))
            return [(str(key), node[i]) for i, key in enumerate(list(names)[:_NODES])]
        if dataclasses.is_dataclass(node):
            return [(f.name, getattr(node, f.name, None)) for f in dataclasses.fields(node)]
        attributes = getattr(node, "__dict__", {})
        return [(str(k).strip("_"), v) for k, v in list(attributes.items())[:_NODES]]
    except Exception:  # noqa: BLE001  # a batch may be anything, and do anything when it is read
        return []


def is_measured(x: Tensor) -> bool:
    """Whether statistics of a batch's tensor say how it was processed: numbers, and not indices."""
    try:
        plain = x.layout is torch.strided and not x.is_nested and x.device.type != "meta"
        return plain and x.numel() > 0 and (x.is_floating_point() or x.dtype is torch.uint8)
    except Exception:  # noqa: BLE001  # subclasses of tensors may answer anything
        return False


LEAF_OUTPUTS: dict[str, str] = {
    "mean": "mean of the elements",
    "std": "their standard deviation, at least 0",
    "min": "smallest element",
    "max": "largest element",
    "samples": "samples that these rest on",
    "mean_error": "standard error of the mean, from the differences between samples, at least 0",
    "std_error": "the same of the standard deviation",
}
"""Outputs of `leaf_numbers` to their meanings."""


def leaf_columns(x: Tensor) -> Columns:
    """Return additive moments of the samples of a tensor: of their means and mean squares.

    Shape:
        ``(samples, *)`` -> sums ``(1, 6)``, maxima ``(1, 2)``
    """
    rows = thinned(x.detach())
    rows = rows.reshape(rows.shape[0] if rows.dim() else 1, -1)
    high, low = extremes(rows)
    rows = rows.to(wide(x.device))
    means, squares = rows.mean(1), rows.square().mean(1)
    sums = [means, means.square(), squares, squares.square(), means * squares]
    totals = torch.stack([torch.ones_like(means), *sums]).sum(1)
    return Columns(totals[None], Columns.of(x.device, [[high, low]]).sums)


def leaf_numbers(sums: Sequence[float], maxima: Sequence[float]) -> dict[str, float]:
    """Turn joined columns into numbers; none if there were no samples, or not all were finite.

    Example:
        >>> columns = leaf_columns(torch.tensor([[1.0, 3.0], [2.0, 2.0]]))
        >>> leaf_numbers(columns.sums[0].tolist(), columns.maxima[0].tolist())["mean"]
        2.0
    """
    count, m, mm, s, ss, ms = sums
    if count < 1 or not all(map(math.isfinite, (*sums, *maxima))):
        return {}
    m, mm, s, ss, ms = (value / count for value in (m, mm, s, ss, ms))
    variance = max(0.0, s - m * m)
    # how much the mean squares of samples about the common mean differ: (s_i - 2 m m_i + m^2)
    spread = ss - 4 * m * ms + 4 * m * m * mm - (s - 2 * m * m) ** 2
    std = math.sqrt(variance)
    numbers = {
        "mean": m,
        "std": std,
        "min": -maxima[1],
        "max": maxima[0],
        "samples": count,
        "mean_error": math.sqrt(max(_ROUNDING * s, mm - m * m) / count),
    }
    if std > 0:
        numbers["std_error"] = math.sqrt(max(_ROUNDING * s * s, spread) / count) / (2 * std)
    return numbers
