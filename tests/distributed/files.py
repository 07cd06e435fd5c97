"""Scenarios: what is written, by whom, and how a run goes on from a checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from distributed.training import Net, Seat, fit, loader, monitors, trainer

BATCHES = 12
SAVED = 9
"""Steps before the checkpoint that a run goes on from."""
LOST = 14
"""Steps of a run that is broken off when records have followed the checkpoint."""
WHOLE = 22
"""Steps of the run that is not."""


class Touchy(Logger):
    """Counts how often it is used, on any rank: nothing here looks at the rank."""

    def __init__(self) -> None:
        super().__init__()
        self.scalars = 0
        self.opened = 0

    @property
    def name(self) -> str:
        """Its name."""
        return "touchy"

    @property
    def version(self) -> int:
        """Its version."""
        return 0

    @property
    def experiment(self) -> Any:
        """Count who asks."""
        self.opened += 1
        return None

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Count what is ours."""
        self.scalars += any(name.startswith("diag/") for name in metrics)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Take them."""


def logged(seat: Seat) -> dict[str, Any]:
    """Train with three loggers."""
    touchy = Touchy()
    wandb = WandbLogger(project="lightning_diag", save_dir=seat.folder, offline=True)
    loggers = [CSVLogger(seat.folder, name="csv"), wandb, touchy]
    result = fit(seat, Net(), loader(seat, BATCHES), logger=loggers, log_every_n_steps=1)
    if seat.rank == 0:
        wandb.experiment.finish()
    untouched = Touchy()
    trainer(seat, [], logger=untouched).fit(Net(), loader(seat, BATCHES))
    return {
        **result,
        "scalars": touchy.scalars,
        "opened": touchy.opened,
        "opened by the trainer": untouched.opened,
    }


def unlogged(seat: Seat) -> dict[str, Any]:
    """Train without a logger."""
    return fit(seat, Net(), loader(seat, BATCHES))


class BrokenOffError(Exception):
    """The run ends here."""


class Breaking(pl.Callback):
    """Breaks a run off as an interruption would: no epoch ends, nothing is written.

    Args:
        step: The step that is not taken any more.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Raise if it is time."""
        if trainer.global_step == self.step:
            raise BrokenOffError


def _saving(seat: Seat) -> ModelCheckpoint:
    return ModelCheckpoint(seat.folder, "{step}", every_n_train_steps=SAVED, save_top_k=-1)


def _resumed(seat: Seat, lost: int) -> dict[str, Any]:
    """Break a run off some steps after its checkpoint, and go on from there with all things new."""
    with contextlib.suppress(BrokenOffError):
        fit(
            seat,
            Net(),
            loader(seat, WHOLE),
            callbacks=[*monitors(), _saving(seat), Breaking(lost)],
            enable_checkpointing=True,
        )
    return fit(
        seat,
        Net(),
        loader(seat, WHOLE),
        callbacks=[*monitors(), _saving(seat)],
        enable_checkpointing=True,
        resume=seat.folder / f"step={SAVED}.ckpt",
    )


def resumed(seat: Seat) -> dict[str, Any]:
    """Go on from a checkpoint that no record has followed."""
    return _resumed(seat, SAVED)


def retaken(seat: Seat) -> dict[str, Any]:
    """Go on from a checkpoint that records have followed: their steps are taken again."""
    return _resumed(seat, LOST)


def unbroken(seat: Seat) -> dict[str, Any]:
    """Train in one go what `resumed` trains in two."""
    return fit(seat, Net(), loader(seat, WHOLE))


TOGETHER: list[Callable[[Seat], Any]] = [logged, unlogged, resumed, retaken, unbroken]
ALONE: list[Callable[[Seat], Any]] = []
