"""Fits that have something to show, for loggers of any kind."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from runs import EVERY_STEP, Classifier, data, trainer
from torch import Tensor

from lightning_diag import Doctor

STEPS = 24
EPOCHS = 4


class Hot(Classifier):
    """Learns far too fast, and logs its loss as users do."""

    def __init__(self) -> None:
        super().__init__(optimizer=partial(torch.optim.SGD, lr=50.0))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return and log the loss."""
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss)
        return loss


def doctor(**options: Any) -> Doctor:
    """Return a Doctor that watches every step."""
    return Doctor(**{**EVERY_STEP, **options})


def fit(
    *callbacks: Any,
    module: pl.LightningModule | None = None,
    ckpt: str | None = None,
    **options: Any,
) -> pl.Trainer:
    """Train for 24 steps, watched on each."""
    watch = [] if any(isinstance(one, Doctor) for one in callbacks) else [doctor()]
    run = trainer(*watch, *callbacks, **{"max_epochs": EPOCHS, **options})
    torch.manual_seed(0)
    run.fit(Hot(), data(), ckpt_path=ckpt)
    return run
