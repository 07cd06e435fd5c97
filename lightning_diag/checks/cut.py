"""Batches with half of their samples, or with words exchanged, and what that does to shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_diag.checks.data import leaves
from lightning_diag.checks.dependence import mapped
from lightning_diag.measure import data as batches


def samples_of(batch: Any, loaders: Any) -> int | None:
    """Return how many samples a batch has, None if its tensors do not say so.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> samples_of([torch.zeros(5, 3), torch.zeros(3)], DataLoader([1, 2, 3], batch_size=3))
        3
    """
    shapes = [x.shape for _, x in batches.leaves(batch) if x.dim()]
    if not shapes:
        return None
    loader = next(iter(leaves(loaders)), None)
    size = getattr(loader, "batch_size", None)
    size = size or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    if isinstance(size, int) and any(size in shape[:2] for shape in shapes):
        return size
    if size is None and _length(getattr(loader, "dataset", None)) == 1:
        return None  # one graph, one volume: what it is made of are no samples
    first = {shape[0] for shape in shapes}
    if len(first) == 1:
        return int(first.pop())
    common = set.intersection(*(set(shape[:2]) for shape in shapes))
    return int(common.pop()) if len(common) == 1 else None


def _length(dataset: Any) -> int:
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):
        return 0


def half(batch: Any, samples: int, dims: tuple[int, int]) -> Any:
    """Return a batch with the first half of its samples, in the first of the dimensions that fits.

    Example:
        >>> half(torch.zeros(6, 4), 4, (0, 1)).shape
        torch.Size([6, 2])
    """

    def cut(x: Tensor) -> Tensor:
        dim = _dim_of(x, samples, dims)
        return x if dim is None else x.narrow(dim, 0, samples // 2)

    return mapped(batch, cut)


def exchanged(batch: Any, samples: int) -> Any | None:
    """Return a batch in which one sample has the words of another; None if it has no words."""
    is_changed = False

    def exchange(x: Tensor) -> Tensor:
        nonlocal is_changed
        dim = _dim_of(x, samples, (0, 1))
        if x.is_floating_point() or x.dtype is torch.bool or x.dim() < 2 or dim is None:
            return x
        order = torch.arange(samples, device=x.device)
        order[samples // 2] = samples // 2 - 1
        other = x.index_select(dim, order)
        is_changed |= not torch.equal(x, other)
        return other

    changed = mapped(batch, exchange)
    return changed if is_changed else None


def _dim_of(x: Tensor, samples: int, dims: tuple[int, int]) -> int | None:
    return next((dim for dim in dims if dim < x.dim() and x.shape[dim] == samples), None)


def fitting(shape: Sequence[int], samples: int) -> int | None:
    """Return the first dimension that may count samples."""
    return next((d for d, size in enumerate(shape) if size and size % samples == 0), None)


def growing(one: Sequence[int], other: Sequence[int], samples: int) -> int | None:
    """Return the only dimension that is another with half of the samples, if it grows with them.

    Example:
        >>> growing((6, 8, 3), (6, 4, 3), 4), growing((8, 8), (4, 4), 8)
        (1, None)
    """
    if len(one) != len(other):
        return None
    changed = [d for d, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
    if len(changed) != 1:
        return None
    dim = changed[0]
    grows = one[dim] * (samples // 2) == other[dim] * samples
    return dim if grows and one[dim] % samples == 0 else None
