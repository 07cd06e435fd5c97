"""Monitors that fail on one rank alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from lightning_diag import DeadReLUTracker, GradientMonitor, LossMonitor
from lightning_diag.measure import dead_relu
from lightning_diag.measure.base import Call, Columns
from lightning_diag.measure.tally import Joined
from lightning_diag.monitors.base import Digest
from lightning_diag.probe.run import Run

BROKEN = 6
"""Step at which something goes wrong on the second rank."""


@dataclass
class Spoiler:
    """Raises on the second rank from `BROKEN` on."""

    rank: int
    step: int = 0

    def spoil(self) -> None:
        """Raise if it is time."""
        if self.rank == 1 and self.step >= BROKEN:
            raise ValueError("a bug on one rank")


class FiredMeasure(dead_relu.FiredMeasure):
    """Raises while the forward pass runs."""

    def __init__(self, spoiler: Spoiler) -> None:
        self._spoiler = spoiler

    def before(self, call: Call) -> Columns | None:
        """Raise if it is time."""
        self._spoiler.spoil()
        return super().before(call)


class BadTracker(DeadReLUTracker):
    """Raises while the forward pass runs."""

    def __init__(self, spoiler: Spoiler) -> None:
        super().__init__(window=24)
        self.spoiler = spoiler

    def call_measures(self) -> Sequence[FiredMeasure]:
        """Return the bad one."""
        return (FiredMeasure(self.spoiler),)


class BadLoss(LossMonitor):
    """Raises at the end of a batch."""

    def __init__(self, spoiler: Spoiler) -> None:
        super().__init__(window=8)
        self.spoiler = spoiler

    def batch_ended(self, loss: Tensor | None, stepped: bool) -> None:
        """Raise if it is time."""
        self.spoiler.spoil()
        super().batch_ended(loss, stepped)


class BadGradient(GradientMonitor):
    """Raises when the numbers are there."""

    def __init__(self, spoiler: Spoiler) -> None:
        super().__init__()
        self.spoiler = spoiler

    def digest(self, joined: Joined, run: Run, step: int) -> Digest:
        """Raise if it is time."""
        self.spoiler.spoil()
        return super().digest(joined, run, step)


class Steps(pl.Callback):
    """Tells a spoiler how far the training is."""

    def __init__(self, spoiler: Spoiler) -> None:
        self.spoiler = spoiler

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Tell it."""
        self.spoiler.step = trainer.global_step
