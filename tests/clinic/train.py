"""Train a recipe: with the Doctor or without, and with notes of its own."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.utils.data import DataLoader, Dataset, TensorDataset

from . import nets, special
from .data import Data, load
from .faults import SlowData, faulty_data, faulty_net
from .learner import Learner
from .recipe import Recipe
from .vitals import Vitals, measure


class Notes(pl.Callback):
    """Losses and times, written down without `lightning_diag`."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.held_losses: list[float] = []
        self.waited = self.worked = 0.0
        self.weights: dict[int, dict[str, torch.Tensor]] = {}
        self.keep: set[int] = set()
        """Steps after which the weights are kept."""
        self._since = time.perf_counter()

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self.waited += now - self._since
        self._since = now

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if outputs is not None and "loss" in outputs:
            self.losses.append(float(outputs["loss"]))
        if trainer.global_step in self.keep and trainer.global_step not in self.weights:
            state = pl_module.state_dict().items()
            self.weights[trainer.global_step] = {name: value.clone() for name, value in state}
        now = time.perf_counter()
        self.worked += now - self._since
        self._since = now

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._before = time.perf_counter()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        # Validation is neither waiting for training data nor work on them.
        self._since += time.perf_counter() - self._before
        if "val_loss" in trainer.callback_metrics:
            self.held_losses.append(float(trainer.callback_metrics["val_loss"]))


@dataclass
class Outcome:
    """A training that is over, and what is true of it."""

    recipe: Recipe
    losses: list[float]
    held_losses: list[float]
    start: Vitals
    end: Vitals
    outputs: int
    """Classes, where there are classes, else 0."""
    wait_share: float
    """Share of the time spent waiting for data."""
    changed: set[str] = field(default_factory=set)
    """Names of parameters and buffers that differ from the start."""
    seconds: float = 0.0
    weights: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    """Of some steps on the way."""

    @cached_property
    def moments(self) -> list[Vitals]:
        """What is true at the start, after an eighth, half-way, and at the end."""
        between = []
        for _, state in sorted(self.weights.items()):
            learner, data = prepare(self.recipe)
            learner.load_state_dict(state)
            between.append(measure(learner, data))
        return [self.start, *between, self.end]

    @property
    def first(self) -> float:
        """The mean of the first three losses."""
        return fmean(self.losses[:3])

    @property
    def last(self) -> float:
        """The mean of the last tenth of the losses."""
        return fmean(self.losses[-max(5, len(self.losses) // 10) :])

    def gain(self) -> float:
        """Share of the first loss that is gone."""
        return 1 - self.last / self.first if self.first else 0.0


def quiet() -> None:
    """Let Lightning say nothing."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)


def prepare(recipe: Recipe) -> tuple[Any, Data]:
    """Return the Lightning module and the data of a recipe."""
    torch.manual_seed(recipe.seed)
    data = faulty_data(load(recipe.data, recipe.seed, recipe.samples), recipe)
    if recipe.net in special.LEARNERS:
        return special.LEARNERS[recipe.net](recipe, data), data
    return Learner(recipe, faulty_net(nets.build(recipe, data), recipe), data), data


def loaders(recipe: Recipe, data: Data) -> tuple[DataLoader[Any], DataLoader[Any] | None]:
    """Return the loaders for training and validation."""
    train: Dataset[Any] = TensorDataset(data.x, data.y)
    pause = recipe.fault("slow_loader")
    if pause:
        train = SlowData(train, pause / recipe.batch_size)
    size = min(recipe.batch_size, len(data.x))
    first = DataLoader(train, size, shuffle=True, drop_last=True)
    held = DataLoader(TensorDataset(data.held_x, data.held_y), 200) if recipe.validates else None
    return first, held


def train(recipe: Recipe, callbacks: Sequence[Any] = ()) -> Outcome:
    """Train a recipe to its end."""
    learner, data = prepare(recipe)
    began, start = time.perf_counter(), measure(learner, data)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    notes = Notes()
    steps = recipe.steps * special.STEPS_OF.get(recipe.net, 1)
    notes.keep = {steps // 8, steps // 2}
    if recipe.resumes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "half.ckpt")
            half = recipe.but(steps=recipe.steps // 2)
            fit(half, learner, data, [notes]).save_checkpoint(path)
            learner, data = prepare(recipe)
            fit(recipe, learner, data, [notes, *callbacks], path)
    else:
        fit(recipe, learner, data, [notes, *callbacks])
    changed = {
        name for name, value in learner.state_dict().items() if not torch.equal(value, before[name])
    }
    whole = max(notes.waited + notes.worked, 1e-9)
    return Outcome(
        recipe, notes.losses, notes.held_losses, start, measure(learner, data),
        data.outputs if data.kind == "classes" else 0,
        notes.waited / whole, changed, time.perf_counter() - began, notes.weights,
    )  # fmt: skip


def fit(
    recipe: Recipe,
    learner: Any,
    data: Data,
    callbacks: Sequence[Any],
    checkpoint: Path | None = None,
) -> pl.Trainer:
    """Run the trainer, and return it."""
    first, held = loaders(recipe, data)
    precision: dict[str, Any] = {"precision": recipe.precision}
    if recipe.precision == "16-search":
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30, growth_interval=50)
        precision = {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}
    batches = recipe.steps * recipe.accumulate
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=recipe.steps * special.STEPS_OF.get(recipe.net, 1),
        max_epochs=-1,
        accumulate_grad_batches=recipe.accumulate,
        gradient_clip_val=recipe.clip or None,
        val_check_interval=max(1, batches // 8) if held else None,
        check_val_every_n_epoch=None if held else 1,
        limit_val_batches=1.0 if held else 0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **precision,
    )
    torch.manual_seed(recipe.seed + 1)
    trainer.fit(learner, first, held, ckpt_path=checkpoint)
    return trainer
