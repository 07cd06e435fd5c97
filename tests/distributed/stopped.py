"""Scenarios: ranks that log different losses stop, prune and restore alike."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import optuna
import torch

from distributed.training import NEVER_TOO_DEAR, Net, Seat, fingerprint, loader, trainer
from lightning_diag import Doctor, EarlyStoppingWindow, OptunaPruning

CHECKS = 30


class Scripted(Net):
    """Logs a loss of each rank's own at each validation."""

    def __init__(self, only: int | None = None, lr: float = 0.05) -> None:
        super().__init__(lr)
        self.only = only
        self.checks = 0

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log a loss that ranks do not agree on."""
        if batch_idx == 0 and self.only in (None, self.global_rank):
            draw = random.Random(1000 * self.global_rank + self.checks)
            value = 1 + abs(self.checks - 6) / 20 + draw.gauss(0, 0.05)
            self.log("val_loss", value, sync_dist=False)

    def on_validation_epoch_end(self) -> None:
        """Count."""
        self.checks += 1


def _trainer(seat: Seat, callbacks: list[Any], **options: Any) -> Any:
    # It is on purpose that ranks log apart.
    warnings.filterwarnings("ignore", "It is recommended to use `self.log")
    return trainer(seat, callbacks, limit_val_batches=1, num_sanity_val_steps=0, **options)


def _stopped(seat: Seat, only: int | None) -> dict[str, Any]:
    torch.manual_seed(0)
    stop = EarlyStoppingWindow("val_loss", window=3, restore_best=True, trend_window=10)
    net = Scripted(only)
    coach = _trainer(seat, [stop], max_epochs=CHECKS)
    coach.fit(net, loader(seat, 2), loader(seat, 2))
    state = stop.state_dict()
    return {
        "epochs": coach.current_epoch,
        "values": state["values"],
        "best_step": state["best_step"],
        "wait": stop.wait_count,
        "reason": stop.stopping_reason_message,
        "weights": fingerprint(net),
    }


def differing(seat: Seat) -> dict[str, Any]:
    """Each rank logs its own."""
    return _stopped(seat, None)


def only_second(seat: Seat) -> dict[str, Any]:
    """The second rank logs, the first one does not."""
    return _stopped(seat, 1)


def _pruned(seat: Seat, lr: float, pruner: Any, **options: Any) -> dict[str, Any]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(pruner=pruner)
    trial = study.ask() if seat.rank == 0 else None
    doctor = Doctor(1, startup_seconds=NEVER_TOO_DEAR, dirpath=str(seat.folder))
    pruning = OptunaPruning(trial, "val_loss", **options)
    coach = _trainer(seat, [pruning, doctor], max_epochs=40)
    raised = ""
    try:
        coach.fit(Scripted(None, lr), loader(seat, 8), loader(seat, 2))
    except optuna.TrialPruned as error:
        raised = str(error)
    if trial is not None:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    return {
        "raised": raised,
        "step": coach.global_step,
        "attributes": study.trials[0].user_attrs if trial is not None else None,
    }


def diverging(seat: Seat) -> dict[str, Any]:
    """Train at a learning rate that is far too high."""
    return _pruned(seat, 1e12, optuna.pruners.NopPruner())


def hopeless(seat: Seat) -> dict[str, Any]:
    """Have the pruner end the trial at its third report."""
    pruner = optuna.pruners.ThresholdPruner(upper=0.5, n_warmup_steps=2)
    return _pruned(seat, 0.05, pruner, prune_on=[])


TOGETHER: list[Callable[[Seat], Any]] = [differing, only_second, diverging, hopeless]
ALONE: list[Callable[[Seat], Any]] = []
