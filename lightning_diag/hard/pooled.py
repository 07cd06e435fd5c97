"""Joins the numbers of all ranks, so that each can decide what one process would."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

_HEADER = 2
_HIGH = 1 << 20
"""Sizes are sent in two halves, each of which float32 holds exactly."""


def ranks() -> int:
    """Return how many processes there are, 1 where no process group stands."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class Pool:
    """Gathers columns of numbers from all ranks, in the order of ranks.

    Every rank sends as many numbers as the longest batch so far has, with its own count before
    them: one collective, whatever the lengths, none of them included. When a batch is longer than
    all before it, every rank sees so, and all gather once more.
    """

    def __init__(self) -> None:
        self._capacity = 0

    def join(self, columns: Sequence[Tensor]) -> tuple[list[Tensor], int]:
        """Return the columns of all ranks behind one another, and where this rank's begin.

        Waits for the device. Every rank must call this, with as many columns of the same type.

        Shape:
            ``(elements,)`` each, on each rank; returns ``(elements of all ranks,)``.
        """
        while True:
            gathered = self._gather(columns)
            heads = torch.stack([each[:_HEADER] for each in gathered]).long().tolist()
            sizes = [high * _HIGH + low for high, low in heads]
            longest = max(sizes)
            if longest <= self._capacity:
                break
            self._capacity = longest
        bodies = [each[_HEADER:].view(len(columns), self._capacity) for each in gathered]
        joined = torch.cat([b[:, :n] for b, n in zip(bodies, sizes, strict=True)], dim=1)
        return list(joined), sum(sizes[: dist.get_rank()])

    def _gather(self, columns: Sequence[Tensor]) -> list[Tensor]:
        size = len(columns[0])
        sent = columns[0].new_zeros(_HEADER + len(columns) * self._capacity)
        sent[0], sent[1] = size // _HIGH, size % _HIGH
        if size <= self._capacity:
            body = sent[_HEADER:].view(len(columns), self._capacity)
            for row, column in zip(body, columns, strict=True):
                row[:size] = column
        found = [torch.empty_like(sent) for _ in range(ranks())]
        dist.all_gather(found, sent)
        return found
