"""Trains with W&B in a process of its own: `script.py SCENARIO`, in the folder where it runs."""

from __future__ import annotations

import logging
import os
import sys
import urllib.request
import warnings
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import WandbLogger

from lightning_diag import DiagWarning
from lightning_diag.loggers import wandb as ours
from loggers.fits import fit


def tell(word: str) -> None:
    """Make the server fall silent (`vanish`), or answer again (`return`)."""
    address = f"{os.environ['WANDB_BASE_URL']}/{word}"
    urllib.request.urlopen(urllib.request.Request(address, data=b"{}"), timeout=20)


class Vanish(pl.Callback):
    """Makes the server fall silent in the middle of the fit."""

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Tell it at step 12."""
        if trainer.global_step == 12:
            tell("vanish")


def online() -> None:
    """Train, and wait until all has arrived."""
    log = WandbLogger(project="p")
    fit(logger=log)
    log.experiment.finish()


def vanish() -> None:
    """Train while the server stops answering; W&B itself would wait for it at the exit."""
    ours.PATIENCE = 1.0
    log = WandbLogger(project="p")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DiagWarning)
        fit(Vanish(), logger=log)
    print("trained")
    print(*(one.message for one in caught if one.category is DiagWarning), sep="\n", flush=True)
    tell("return")
    log.experiment.finish()


def processes(strategy: str, *, touched: bool) -> None:
    """Train in two processes that this one starts."""
    log = WandbLogger(project="p")
    if touched:
        log.experiment.name  # noqa: B018  # begins the run here
    fit(logger=log, strategy=strategy, devices=2, use_distributed_sampler=False)


if __name__ == "__main__":
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    scenario, *rest = sys.argv[1:]
    if scenario in ("online", "vanish"):
        {"online": online, "vanish": vanish}[scenario]()
    else:
        processes(scenario, touched="touched" in rest)
