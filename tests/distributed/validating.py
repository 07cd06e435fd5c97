"""Scenarios: ranks that validate on their own parts, and log different things."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from distributed.training import Net, Seat, fit, keeper, loader
from lightning_diag import DataMonitor, ValidationMonitor

BATCHES = 6


class Validated(Net):
    """Logs in both stages; what depends on the rank, ranks log alone."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Log the rank, and a number that only one rank logs."""
        self.log("train_rank", float(self.global_rank))
        if self.global_rank == 1:
            self.log("train_alone", 1.0)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log the rank, and a number that each rank has a name of its own for."""
        rank = self.global_rank
        self.log("val_rank", float(rank), sync_dist=False)
        self.log(f"val_only_{rank}", 10.0 + rank, sync_dist=False)
        self.log("val_loss", (self(batch[0]) - batch[1]).square().mean(), sync_dist=True)


class Both(pl.LightningDataModule):
    """The same data in both stages."""

    def __init__(self, seat: Seat) -> None:
        super().__init__()
        self.seat = seat

    def train_dataloader(self) -> Any:
        """Return this rank's part."""
        return loader(self.seat, BATCHES)

    val_dataloader = train_dataloader


class Fails(ValidationMonitor):
    """Fails on one rank when a validation ends."""

    def note(self, stage: Any) -> Any:
        """Raise on the second rank."""
        if self._run is not None and self._run.module.global_rank == 1:
            raise RuntimeError("no notes here")
        return super().note(stage)


def validated(seat: Seat) -> dict[str, Any]:
    """Validate after every second batch, and stop nobody."""
    return _run(seat, [DataMonitor(), ValidationMonitor()])


def failing(seat: Seat) -> dict[str, Any]:
    """Let one rank fail when it is asked."""
    return _run(seat, [DataMonitor(), Fails()])


def _run(seat: Seat, callbacks: list[Any]) -> dict[str, Any]:
    torch.manual_seed(0)
    keep = keeper(every_n_steps=1)
    result = fit(
        seat,
        Validated(),
        Both(seat),
        keep=keep,
        callbacks=callbacks,
        val_check_interval=2,
        max_epochs=2,
        num_sanity_val_steps=1,
    )
    history = keep.history
    noted = [m for m in history.metrics() if m.startswith(("validation/", "metric/", "data/"))]
    series = {
        f"{metric} {place}": history.series(metric, place)
        for metric in noted
        for place in history.places(metric)
        if metric != "data/wait_fraction"
    }
    return {**result, "series": series}


TOGETHER: list[Callable[[Seat], Any]] = [validated, failing]
ALONE: list[Callable[[Seat], Any]] = [validated]
