"""Scenarios: loss calls on two ranks, of unlike batches, and one that a rank leaves out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from distributed.training import BATCH, Net, Seat, fit, keeper, samples
from lightning_diag import OutputMonitor

STEPS = 24
UNEVEN = (6, 2)
"""Samples of a batch on each of two ranks."""


class Scored(Net):
    """A cross-entropy and a squared distance; the second is left out at times, on one rank."""

    moody = False
    ignored = -100

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Any:
        x, y = batch
        hidden = torch.tanh(self.second(torch.tanh(self.first(x))))
        scores = self.last(torch.tanh(self.third(hidden)))
        loss = functional.cross_entropy(scores, y.argmax(-1), ignore_index=self.ignored)
        if self.moody and self.global_rank == 1 and batch_idx % 3:
            return loss
        return loss + functional.mse_loss(scores, y)


def _fit(seat: Seat, net: Net, part: slice, batch: int, **options: Any) -> dict[str, Any]:
    x, y = (whole[:, part].flatten(0, 1) for whole in samples(STEPS, torch.float64))
    data = DataLoader(TensorDataset(x, y), batch_size=batch)
    keep = keeper(every_n_steps=1)
    return fit(
        seat, net, data, keep=keep, callbacks=[OutputMonitor()], precision="64-true", **options
    )


def shared(seat: Seat) -> dict[str, Any]:
    """Train on halves of each batch."""
    size = BATCH // seat.ranks
    part = slice(seat.rank * size, (seat.rank + 1) * size)
    return _fit(seat, Scored(), part, size)


def accumulated(seat: Seat) -> dict[str, Any]:
    """The same, four batches a step."""
    size = BATCH // seat.ranks
    part = slice(seat.rank * size, (seat.rank + 1) * size)
    return _fit(seat, Scored(), part, size, accumulate_grad_batches=4)


def ignoring(seat: Seat) -> dict[str, Any]:
    """Train on halves of each batch, with a class that does not count."""
    net = Scored()
    net.ignored = 1
    size = BATCH // seat.ranks
    return _fit(seat, net, slice(seat.rank * size, (seat.rank + 1) * size), size, max_epochs=3)


def uneven(seat: Seat) -> dict[str, Any]:
    """Train on batches of unlike sizes."""
    part = slice(None)
    if seat.ranks > 1:
        part = slice(0, UNEVEN[0]) if seat.rank == 0 else slice(UNEVEN[0], BATCH)
    return _fit(seat, Scored(), part, BATCH if seat.ranks == 1 else UNEVEN[seat.rank])


def moody(seat: Seat) -> dict[str, Any]:
    """Train with a rank that leaves a loss out now and then."""
    net = Scored()
    net.moody = True
    size = BATCH // seat.ranks
    return _fit(seat, net, slice(seat.rank * size, (seat.rank + 1) * size), size)


TOGETHER: list[Callable[[Seat], Any]] = [shared, accumulated, ignoring, uneven, moody]
ALONE: list[Callable[[Seat], Any]] = [shared, accumulated, ignoring]
