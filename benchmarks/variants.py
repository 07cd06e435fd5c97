"""What is added to a bare Trainer: `Doctor` and its peers, each as its own documentation says."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities import grad_norm
from torch import Tensor, nn


@dataclass
class Extras:
    """What a variant hands to the Trainer."""

    logger: Logger
    callbacks: list[Callback] = field(default_factory=list)
    watched_steps: Callable[[], list[int] | None] = lambda: None
    """After training: the steps that were watched, None where all steps are alike or periodic."""


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    title: str
    """What the row says."""
    build: Callable[[LightningModule, Path], Extras]
    """Makes the extras for a module and a folder to write to."""
    compared_with: str = "bare"
    """The variant that it is divided by."""
    needs: tuple[str, ...] = ()
    """Packages without which the row says "not installed"."""
    warm_up: int = 50
    """Steps before anything is measured, a multiple of 50."""

    def missing(self) -> list[str]:
        """Return the packages that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


class EmptyCallback(Callback):
    """Does nothing: what one more callback costs in Lightning itself."""


class GradNormCallback(Callback):
    """Log every gradient's norm, as Lightning's documentation of `grad_norm` shows."""

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Log the norms."""
        pl_module.log_dict(grad_norm(pl_module, norm_type=2))


class HandWrittenHooks(Callback):
    """What people write first: hooks on every layer, and each statistic a number at once."""

    def __init__(self) -> None:
        self.numbers: dict[str, float] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hook every layer that has no children."""
        for name, module in pl_module.named_modules():
            if not list(module.children()):
                module.register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            out = output.detach().float()
            self.numbers[f"{name}/mean"] = out.mean().item()
            self.numbers[f"{name}/std"] = out.std().item()
            self.numbers[f"{name}/zeros"] = (out == 0).float().mean().item()

        return hook

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Take the norm and the largest entry of every gradient."""
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None:
                self.numbers[f"{name}/norm"] = parameter.grad.norm().item()
                self.numbers[f"{name}/max"] = parameter.grad.abs().max().item()


class TorchmortemCallback(Callback):
    """torchmortem's `Autopsy` at its defaults, called as its README says."""

    def __init__(self) -> None:
        self.autopsy: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach to the net."""
        package = importlib.import_module("torchmortem")
        self.autopsy = package.Autopsy(pl_module.net, optimizer=trainer.optimizers[0])
        self.autopsy.attach()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Hand over the loss."""
        self.autopsy.step(loss=outputs["loss"].item())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Detach, so that nothing is left to the end of the process."""
        self.autopsy.detach()


def _callback(make: Callable[[], Callback]) -> Callable[[LightningModule, Path], Extras]:
    def build(module: LightningModule, folder: Path) -> Extras:
        return Extras(CSVLogger(folder), [make()])

    return build


def _bare(module: LightningModule, folder: Path) -> Extras:
    return Extras(CSVLogger(folder))


def _doctor(steps_before: int = 0, **options: Any) -> Callable[[LightningModule, Path], Extras]:
    def build(module: LightningModule, folder: Path) -> Extras:
        doctor = importlib.import_module("lightning_diag").Doctor(**options)
        doctor.load_state_dict({"probe": {"steps": steps_before}})
        return Extras(
            CSVLogger(folder),
            [doctor],
            lambda: [step - steps_before for step in doctor.history.steps],
        )

    return build


def _gradient_monitor(module: LightningModule, folder: Path) -> Extras:
    package = importlib.import_module("lightning_diag")
    return Extras(CSVLogger(folder), [package.GradientMonitor(**EVERY_STEP)])


def _wandb(log_freq: int | None) -> Callable[[LightningModule, Path], Extras]:
    def build(module: LightningModule, folder: Path) -> Extras:
        loggers = importlib.import_module("lightning.pytorch.loggers")
        logger = loggers.WandbLogger(save_dir=folder, offline=True)
        if log_freq is None:
            logger.experiment  # noqa: B018 -- starts the run, as `watch` would
        else:
            logger.watch(module, log="all", log_freq=log_freq, log_graph=False)
        return Extras(logger)

    return build


EVERY_STEP: dict[str, Any] = {
    "every_n_steps": 1,
    "max_overhead": 1e9,
    "startup_seconds": 1e9,
}
"""Watch every step, whatever it costs."""

SETTLED = 1000
"""Steps after which the default schedule looks once in 50; Doctor is told that they are behind."""

SPENT: dict[str, Any] = {"startup_seconds": 0.0}
"""The defaults with the start-up allowance spent."""

NEVER: dict[str, Any] = {"startup_seconds": 0.0, "max_overhead": 1e-9}
"""Attached, and no step watched after the first."""

VARIANTS: dict[str, Variant] = {
    "bare": Variant("bare Trainer", _bare),
    "bare-again": Variant("bare Trainer again", _bare),
    "empty": Variant("an empty callback", _callback(EmptyCallback)),
    "doctor-unwatched": Variant(
        "Doctor, steps not watched", _doctor(**NEVER), needs=("lightning_diag",)
    ),
    "doctor": Variant("Doctor at defaults", _doctor(SETTLED), needs=("lightning_diag",)),
    "doctor-spent": Variant(
        "Doctor at defaults, allowance spent",
        _doctor(**SPENT),
        needs=("lightning_diag",),
        warm_up=200,
    ),
    "doctor-every": Variant(
        "Doctor on every step", _doctor(**EVERY_STEP), needs=("lightning_diag",)
    ),
    "gradient-every": Variant(
        "GradientMonitor on every step", _gradient_monitor, needs=("lightning_diag",)
    ),
    "grad-norm-every": Variant(
        "callback logging grad_norm on every step", _callback(GradNormCallback)
    ),
    "hooks-every": Variant(
        "hand-written hooks, .item() on every step", _callback(HandWrittenHooks)
    ),
    "torchmortem": Variant(
        "torchmortem at defaults", _callback(TorchmortemCallback), needs=("torchmortem",)
    ),
    "wandb": Variant("bare Trainer with W&B logger", _wandb(None), needs=("wandb",)),
    "wandb-50": Variant(
        'wandb.watch(log="all", log_freq=50)', _wandb(50), compared_with="wandb", needs=("wandb",)
    ),
    "wandb-1": Variant(
        'wandb.watch(log="all", log_freq=1)', _wandb(1), compared_with="wandb", needs=("wandb",)
    ),
}
"""By name, in the table's order."""
