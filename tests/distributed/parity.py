"""Scenarios: the same samples in one process and in two."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from distributed.training import (
    BATCH,
    Keeper,
    Net,
    Seat,
    fingerprint,
    fit,
    keeper,
    loader,
    samples,
    trainer,
)
from lightning_diag import ActivationMonitor, DeadReLUTracker, GradientMonitor, LossMonitor
from lightning_diag.record import Record

STEPS = 22
UNEVEN = (6, 2)
"""Samples of a batch on each of two ranks."""

Options = dict[str, Any]
CONFIGURATIONS: dict[str, Options] = {
    "double": {"precision": "64-true"},
    "accumulated": {"precision": "64-true", "accumulate_grad_batches": 4},
    "clipped": {
        "precision": "64-true",
        "accumulate_grad_batches": 4,
        "gradient_clip_val": 0.02,
    },
    "single": {"gradient_clip_val": 0.1},
    "bfloat": {"precision": "bf16-mixed"},
}
"""Name to the trainer's options."""


def _data(seat: Seat, options: Options) -> DataLoader[Any]:
    dtype = torch.float64 if options.get("precision") == "64-true" else torch.float32
    return loader(seat, STEPS * int(options.get("accumulate_grad_batches", 1)), dtype)


def watched(seat: Seat) -> dict[str, Any]:
    """Train each configuration with all monitors."""
    return {
        name: fit(seat, Net(), _data(seat, options), **options)
        for name, options in CONFIGURATIONS.items()
    }


def bare(seat: Seat) -> dict[str, str]:
    """Train each configuration without monitors; return the weights."""
    weights = {}
    for name, options in CONFIGURATIONS.items():
        net = Net()
        trainer(seat, [], **options).fit(net, _data(seat, options))
        weights[name] = fingerprint(net)
    return weights


class Sluggish(Keeper):
    """Takes its time over every record, on the second rank only."""

    rank = 0

    def on_record(self, record: Record) -> None:
        """See `Watcher.on_record`."""
        time.sleep(0.03 * self.rank)


class SlowNet(Net):
    """Takes its time over every batch, on the second rank only."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Sleep and train."""
        time.sleep(0.002 * self.global_rank)
        return super().training_step(batch, batch_idx)


def slowed(seat: Seat) -> dict[str, Any]:
    """Train with one rank slower than the other, and little time to spend on watching."""
    thrifty: dict[str, Any] = {"every_n_steps": 1, "max_overhead": 0.5, "startup_seconds": 0.1}
    keep = Sluggish(**thrifty)
    keep.rank = seat.rank
    callbacks = [GradientMonitor(**thrifty), LossMonitor(**thrifty)]
    return fit(seat, SlowNet(), loader(seat, 80), keep=keep, callbacks=callbacks)


def uneven(seat: Seat) -> dict[str, Any]:
    """Train with batches of unlike sizes, the last of them still smaller, for two epochs."""
    x, y = samples(STEPS)
    part = slice(None)
    if seat.ranks > 1:
        part = slice(0, UNEVEN[0]) if seat.rank == 0 else slice(UNEVEN[0], BATCH)
    x, y = x[:, part], y[:, part]
    size = x.shape[1]
    flat = x.flatten(0, 1)[:-1], y.flatten(0, 1)[:-1]
    data = DataLoader(TensorDataset(*flat), batch_size=size)
    callbacks = [ActivationMonitor(), DeadReLUTracker(), LossMonitor()]
    return fit(seat, Net(), data, callbacks=callbacks, max_epochs=2)


def frequent(seat: Seat) -> dict[str, Any]:
    """Train with the sampler that Lightning puts in, which pads what cannot be divided."""
    x, y = samples(STEPS)
    data = TensorDataset(x.flatten(0, 1)[:-3], y.flatten(0, 1)[:-3])
    return fit(
        seat,
        Net(),
        DataLoader(data, batch_size=BATCH // seat.ranks),
        keep=keeper(every_n_steps=1),
        use_distributed_sampler=True,
    )


TOGETHER: list[Callable[[Seat], Any]] = [watched, bare, slowed, uneven, frequent]
ALONE: list[Callable[[Seat], Any]] = [watched, uneven]
