"""Trainings whose weight says which learning rate each step was really taken with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers.logger import Logger
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

STEPS = 12
BASE = 0.5
SCHEDULES = ("none", "step", "epoch", "one_cycle", "lambda", "sequential", "plateau")


def schedule(kind: str, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return one of `SCHEDULES` as `configure_optimizers` does."""
    made: dict[str, Callable[[], Any]] = {
        "step": lambda: lr_scheduler.StepLR(optimizer, 3, 0.5),
        "epoch": lambda: lr_scheduler.ExponentialLR(optimizer, 0.7),
        "one_cycle": lambda: lr_scheduler.OneCycleLR(
            optimizer, max_lr=BASE, total_steps=STEPS + 1, cycle_momentum=False
        ),
        "lambda": lambda: lr_scheduler.LambdaLR(optimizer, lambda t: 0.95**t),
        "sequential": lambda: lr_scheduler.SequentialLR(
            optimizer,
            [
                lr_scheduler.ConstantLR(optimizer, 1.0, 1),
                lr_scheduler.CosineAnnealingLR(optimizer, STEPS),
            ],
            milestones=[5],
        ),
        # The loss falls all the time, so that the schedule falls every epoch.
        "plateau": lambda: lr_scheduler.ReduceLROnPlateau(
            optimizer, mode="max", factor=0.5, patience=0
        ),
    }
    interval = "epoch" if kind in ("epoch", "plateau") else "step"
    return {"scheduler": made[kind](), "interval": interval, "monitor": "loss"}


class Ruler(pl.LightningModule):
    """Has a gradient of exactly 1, so that plain SGD moves its weight by the learning rate."""

    def __init__(self, kind: str = "none", **options: Any) -> None:
        super().__init__()
        self.kind, self.options = kind, options
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.logged_in_training: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the weight."""
        optimizer: Any = self.optimizers()
        self.logged_in_training.append(float(optimizer.param_groups[0]["lr"]))
        loss = self.weight.sum()
        self.log("loss", loss.detach(), on_epoch=True, on_step=False, sync_dist=True, batch_size=2)
        return loss

    def configure_optimizers(self) -> Any:
        """Return SGD and the schedule."""
        optimizer = torch.optim.SGD(self.parameters(), lr=BASE, **self.options)
        if self.kind == "none":
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": schedule(self.kind, optimizer)}


class Tape(pl.Callback):
    """Keeps what each step moved the weight by, and the group's rate between steps."""

    def __init__(self) -> None:
        self.moved: list[float] = []
        self.resting: list[float] = []
        self._last = 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin where the weight is."""
        self._last = pl_module.weight.item()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note a step if one was taken."""
        now = pl_module.weight.item()
        if now != self._last:
            self.moved.append(self._last - now)
            self.resting.append(float(trainer.optimizers[0].param_groups[0]["lr"]))
        self._last = now


class Notebook(Logger):
    """Keeps what it is told: step to metric to values."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: dict[str, dict[int, list[float]]] = {}

    @property
    def name(self) -> str:
        """Return a name."""
        return "notebook"

    @property
    def version(self) -> int:
        """Return a version."""
        return 0

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Keep them."""
        for name, value in metrics.items():
            self.notes.setdefault(name, {}).setdefault(step or 0, []).append(float(value))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Keep nothing of them."""

    def lr(self, name: str = "lr-SGD") -> list[float]:
        """Return the one rate that was logged for each step."""
        found = self.notes[name]
        assert all(len(set(values)) == 1 for values in found.values()), found
        return [found[step][0] for step in sorted(found)]


def data(batches: int, size: int = 2) -> DataLoader[Any]:
    """Return a loader of samples that nobody looks at."""
    return DataLoader(TensorDataset(torch.zeros(batches * size, 1)), batch_size=size)


def trainer(callbacks: Sequence[Any], **options: Any) -> pl.Trainer:
    """Return a quiet trainer."""
    return pl.Trainer(
        **{
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "callbacks": list(callbacks),
            **options,
        }
    )


class Result:
    """What a training has shown."""

    def __init__(self, module: Ruler, tape: Tape, notebook: Notebook, coach: pl.Trainer) -> None:
        self.used = tape.moved
        self.resting = tape.resting
        self.logged = notebook.lr()
        self.in_training = module.logged_in_training
        self.weight = module.weight.item()
        self.coach = coach
        self.notes = notebook.notes


def run(
    kind: str,
    callbacks: Sequence[Any],
    *,
    accumulation: int = 1,
    before: bool = True,
    resume: Path | None = None,
    module: Ruler | None = None,
    **options: Any,
) -> Result:
    """Train for `STEPS` steps, four to an epoch (two with accumulation).

    Args:
        kind: Of `SCHEDULES`.
        callbacks: What is tried.
        accumulation: Batches of a step.
        before: Whether `LearningRateMonitor` stands before what is tried.
        resume: Checkpoint to go on from.
        module: What to train, if not a `Ruler` with that schedule.
        options: The trainer's.
    """
    tape, notebook = Tape(), Notebook()
    monitor = LearningRateMonitor("step")
    each = [monitor, *callbacks] if before else [*callbacks, monitor]
    net = module or Ruler(kind)
    epochs = 3 if accumulation == 1 else 6
    coach = trainer(
        [tape, *each],
        **{
            "logger": notebook,
            "max_epochs": epochs,
            "accumulate_grad_batches": accumulation,
            **options,
        },
    )
    coach.fit(net, data(4 if accumulation == 1 else 8), ckpt_path=resume, weights_only=True)
    return Result(net, tape, notebook, coach)


def closed_form(t: int, steps: int, start: float) -> float:
    """Return the factor of a linear warm-up, as it is defined."""
    return start + (1 - start) * min(1, t / steps)
