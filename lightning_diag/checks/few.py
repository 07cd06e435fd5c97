"""A few samples of a batch, whatever the batch is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def mapped(change: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """Return a batch whose tensors are changed; what is no list, tuple or mapping stays as it is.

    Example:
        >>> mapped(torch.neg, {"x": [torch.ones(1), "a"]})
        {'x': [tensor([-1.]), 'a']}
    """
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        members = {name: mapped(change, member) for name, member in batch.items()}
        return members if type(batch) is dict else _like(batch, members)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(mapped(change, member) for member in batch))
    if type(batch) in (list, tuple):
        return type(batch)(mapped(change, member) for member in batch)
    return batch


def _like(batch: Any, members: dict[Any, Any]) -> Any:
    try:
        return type(batch)(members)
    except TypeError:
        return members


def tensors(batch: Any) -> list[Tensor]:
    """Return the tensors of a batch, in their order.

    Example:
        >>> tensors({"x": torch.ones(1), "y": [torch.zeros(1)]})
        [tensor([1.]), tensor([0.])]
    """
    found: list[Tensor] = []

    def take(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    mapped(take, batch)
    return found


def samples_of(batch: Any) -> int | None:
    """Return how many samples a batch has: None where its tensors do not agree on that.

    Example:
        >>> samples_of([torch.zeros(4, 2), torch.zeros(4)]), samples_of(torch.zeros(()))
        (4, None)
    """
    sizes = {len(tensor) for tensor in tensors(batch) if tensor.dim()}
    return sizes.pop() if len(sizes) == 1 and not _holds_others(batch) else None


def _holds_others(batch: Any) -> bool:
    """Whether there are lists of something else, which may be one for each sample."""
    if isinstance(batch, Mapping):
        return any(map(_holds_others, batch.values()))
    if isinstance(batch, (list, tuple)):
        strange = [m for m in batch if not isinstance(m, (Tensor, Mapping, list, tuple))]
        return bool(strange) or any(map(_holds_others, batch))
    return False


def first_samples(batch: Any, n: int) -> Any:
    """Return the first samples of a batch; all of it where it is not known what a sample is.

    Example:
        >>> first_samples([torch.arange(4), torch.arange(4)], 2)
        [tensor([0, 1]), tensor([0, 1])]
    """
    size = samples_of(batch)
    if size is None or size <= n:
        return batch
    return mapped(lambda tensor: tensor[:n].clone() if tensor.dim() else tensor, batch)


def joined(batches: list[Any], n: int) -> Any:
    """Return a batch of at most `n` samples, made of several where one is too small.

    The first one's samples alone where the others are not of the same shapes.

    Example:
        >>> joined([torch.arange(2), torch.arange(2)], 3)
        tensor([0, 1, 0])
    """
    size = samples_of(batches[0])
    if size is None or size >= n or len(batches) == 1:
        return first_samples(batches[0], n)
    columns = [tensors(batch) for batch in batches]
    shapes = {tuple((t.shape[1:], t.dtype, t.dim()) for t in column) for column in columns}
    if len(shapes) > 1 or any(samples_of(batch) is None for batch in batches):
        return batches[0]
    rows = iter([torch.cat(ts)[:n] if ts[0].dim() else ts[0] for ts in zip(*columns, strict=True)])
    return mapped(lambda _: next(rows), batches[0])
