"""The trainings of a comparison: one module, one seed, one budget each."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from lightning_diag._compat import NAMESPACES, Callback, LightningModule, Namespace
from lightning_diag.lr.apart import loaders_apart, seed_all
from lightning_diag.lr.apply import Adjustment, AppliedLR
from lightning_diag.transfer.comparison import ArmName
from lightning_diag.transfer.frozen import FrozenParts
from lightning_diag.transfer.head_inputs import HeadInputs
from lightning_diag.transfer.parts import Parts, begin_anew, frozen

Measure = str | Callable[[Any, Any], float]
Factory = Callable[[int], Any]


@dataclass(frozen=True)
class Setting:
    """What all trainings of a comparison share."""

    namespace: Namespace
    """Whose Trainer trains."""
    folder: str
    """Where it may write."""
    metric: Measure
    """What is measured."""
    parts: Parts
    """What is frozen while only the head is trained."""
    steps: int | None
    """The budget in optimizer steps, or None."""
    seconds: float | None
    """The budget in seconds, or None."""
    like: Any
    """The user's trainer, or None."""
    accelerator: str
    """As for the Trainer."""


@dataclass(frozen=True)
class Outcome:
    """What one training led to."""

    metric: float
    """After it."""
    untrained: float
    """Before it; NaN if it was not asked for."""
    steps: int
    """Optimizer steps that were taken."""


def is_datamodule(data: Any) -> bool:
    """Whether data are a LightningDataModule's, or anything that is used like one."""
    return hasattr(data, "train_dataloader") and hasattr(data, "val_dataloader")


def module_for(arm: ArmName, pretrained: Factory, scratch: Factory | None, seed: int) -> Any:
    """Return a module of an arm's own, drawn with a seed."""
    seed_all(seed)
    is_anew = arm == "from-scratch"
    module = copy.deepcopy((scratch if is_anew and scratch else pretrained)(seed))
    if not isinstance(module, LightningModule):
        name = "scratch" if is_anew and scratch else "pretrained"
        raise TypeError(
            f"`{name}` must return a LightningModule when it is called with a seed, got "
            f"{type(module).__name__}."
        )
    if is_anew and scratch is None:
        begin_anew(module)
    return module


def trained(
    arm: ArmName,
    module: Any,
    data: Any,
    setting: Setting,
    *,
    seed: int,
    factor: float = 1.0,
    inputs: HeadInputs | None = None,
) -> Outcome:
    """Train a module of an arm's own within the budget, and measure it.

    Args:
        arm: Which.
        module: It is changed.
        data: Two loaders, or a LightningDataModule.
        setting: What all share.
        seed: Of the order of batches and of all that is drawn.
        factor: Of the learning rates.
        inputs: Keeps what enters the head, if given.
    """
    is_anew = arm == "from-scratch"
    untrained = measured(module, data, setting, seed) if is_anew else float("nan")
    still = frozen(module, setting.parts) if arm == "head-only" else None
    callbacks: list[Any] = [_Arm(still, factor, setting.seconds, seed)]
    if inputs is not None:
        callbacks.append(inputs)
    trainer = _trainer(setting, callbacks, limit_val_batches=0)
    with _ready(data, seed) as (train, _, datamodule):
        trainer.fit(module, train, datamodule=datamodule)
    return Outcome(measured(module, data, setting, seed), untrained, trainer.global_step)


def measured(module: Any, data: Any, setting: Setting, seed: int) -> float:
    """Return the metric of a module.

    Raises:
        ValueError: If validation does not log it.
    """
    with _ready(data, seed) as (_, val, datamodule):
        if callable(setting.metric):
            module.eval()
            with torch.no_grad():
                value = float(setting.metric(module, datamodule or val))
            module.train()
            return value
        trainer = _trainer(setting, [])
        trainer.validate(module, val, datamodule=datamodule, verbose=False)
        logged = trainer.callback_metrics
        if setting.metric not in logged:
            raise ValueError(
                f"`metric` must be the name of a metric that validation logs, got "
                f"{setting.metric!r}: validation logs {', '.join(sorted(logged)) or 'none'}."
            )
        return float(logged[setting.metric])


class _Arm(Callback):
    """Keeps what is frozen so, scales learning rates, and ends a fit when its time is over.

    Random states are set before each epoch and each batch: a frozen backbone has no dropout, and
    would leave other states to those who shuffle and augment than one that is trained.
    """

    def __init__(
        self, still: FrozenParts | None, factor: float, seconds: float | None, seed: int
    ) -> None:
        super().__init__()
        self._still, self._factor, self._seconds, self._seed = still, factor, seconds, seed
        self._began = 0.0
        self._drawn = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Scale each step's learning rates; leave out what waits for a validation."""
        strategy = trainer.strategy
        strategy.lr_scheduler_configs = [
            each for each in strategy.lr_scheduler_configs if not each.reduce_on_plateau
        ]
        if self._factor != 1:
            for optimizer in trainer.optimizers:
                AppliedLR.join(optimizer, Adjustment(self._scaled))
        self._began = _now()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Set the random states of the order of the epoch's batches, and of the first batch."""
        self._draw_alike()

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate what is frozen: trainers put all into training mode."""
        if self._still:
            self._still.calm()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Set the random states of the next batch, and look at the clock."""
        self._draw_alike()
        if self._seconds is not None and _now() - self._began >= self._seconds:
            trainer.should_stop = True

    def _scaled(self, step: int, group: int) -> float:
        return self._factor

    def _draw_alike(self) -> None:
        self._drawn += 1
        seed_all((self._seed * 1_000_003 + self._drawn) % 2**32)


def _now() -> float:
    return time.perf_counter()


@contextmanager
def _ready(data: Any, seed: int) -> Iterator[tuple[Any, Any, Any]]:
    """Yield the loaders to train on and to measure with, or a datamodule, all at a seed.

    What a datamodule's `setup` draws, such as a split, is then the same in each training.
    """
    seed_all(seed)
    if is_datamodule(data):
        # Not deep: data may be large, and what `setup` makes is set on the copy.
        yield None, None, copy.copy(data)
        return
    train, val = data
    with loaders_apart(train, seed) as train, loaders_apart(val, seed) as val:
        yield train, val, None


def _trainer(setting: Setting, callbacks: list[Any], **options: Any) -> Any:
    names = ("precision", "gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches")
    like = {} if setting.like is None else {name: getattr(setting.like, name) for name in names}
    return NAMESPACES[setting.namespace].Trainer(
        accelerator=setting.accelerator,
        devices=1,
        max_epochs=-1,
        max_steps=-1 if setting.steps is None else setting.steps,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=setting.folder,
        callbacks=callbacks,
        **like,
        **options,
    )
