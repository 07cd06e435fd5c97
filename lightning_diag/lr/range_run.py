"""The training of a range test: a copy of the module in a trainer of its own."""

from __future__ import annotations

import copy
import logging
import math
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader

from lightning_diag._compat import NAMESPACES, Callback, LightningModule, namespace_of

KEEP = 0.9
"""Of the running average that ends a test early. Our choice: ten steps, a decade at most."""


def measured_curve(
    model: Any,
    data: Any,
    datamodule: Any,
    like: Any,
    rates: Sequence[float],
    *,
    stop_factor: float,
    accelerator: str,
) -> list[float]:
    """Return the loss after a step with each learning rate, up to where it has diverged.

    Raises:
        TypeError: If `model` is no LightningModule.
        ValueError: If training returns no loss.
    """
    namespace = namespace_of(model)
    if namespace is None or not isinstance(model, LightningModule):
        raise TypeError(f"`model` must be a LightningModule, got {type(model).__name__}.")
    rising = _Rising(rates, stop_factor)
    with ExitStack() as undone:
        folder = undone.enter_context(tempfile.TemporaryDirectory())
        for each in (_kept_states(), _kept_generators(data), _quiet(namespace), _kept_flags()):
            undone.enter_context(each)
        trainer = NAMESPACES[namespace].Trainer(
            accelerator=accelerator,
            devices=1,
            max_epochs=-1,
            # Manual optimisation may count several steps a batch; `_Rising` ends it in time.
            max_steps=(len(rates) + 1) * (1 if model.automatic_optimization else 8),
            limit_val_batches=0,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[rising],
            **_settings(like),
        )
        # Not deep: data may be large, and what `setup` makes is set on the copy.
        module = copy.copy(datamodule)
        trainer.fit(copy.deepcopy(model), _loaders(data), datamodule=module)
    if not rising.losses:
        raise ValueError(
            "`model.training_step` must return a loss for a range test, got none: with manual "
            "optimisation return {'loss': loss}."
        )
    return rising.losses[1:]


class _Rising(Callback):
    """Raises the learning rate from step to step, and keeps the losses.

    The loss of a batch is computed before its step, so that the loss of the next batch is the one
    after a step with this batch's learning rate.
    """

    def __init__(self, rates: Sequence[float], stop_factor: float) -> None:
        super().__init__()
        self.losses: list[float] = []
        self._rates = rates
        self._stop_factor = stop_factor
        self._ratios: list[list[float]] = []
        self._parts: list[float] = []
        self._average = self._first = self._lowest = math.nan

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Leave the schedulers out, and remember how the groups compare."""
        trainer.strategy.lr_scheduler_configs = []
        base = float(trainer.optimizers[0].param_groups[0]["lr"])
        self._ratios = [
            [float(group["lr"]) / base if base else 1.0 for group in optimizer.param_groups]
            for optimizer in trainer.optimizers
        ]

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Set the learning rate of the coming step."""
        rate = self._rates[min(len(self.losses), len(self._rates) - 1)]
        for optimizer, ratios in zip(trainer.optimizers, self._ratios, strict=True):
            for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
                if isinstance(group["lr"], torch.Tensor):
                    group["lr"].fill_(rate * ratio)
                else:
                    group["lr"] = rate * ratio

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss of each optimizer step, over all its micro-batches."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if loss is None:
            return
        self._parts.append(float(loss.detach()))
        wanted = trainer.accumulate_grad_batches
        is_last = batch_idx + 1 == trainer.num_training_batches
        if len(self._parts) < wanted and not is_last:
            return
        # Lightning has divided each by the accumulation factor.
        whole = sum(self._parts) * (wanted / len(self._parts))
        self.losses.append(whole)
        self._parts = []
        if len(self.losses) > len(self._rates) or self._is_over(whole):
            trainer.should_stop = True

    def _is_over(self, loss: float) -> bool:
        if not math.isfinite(loss):
            return True
        if len(self.losses) == 1:
            self._average = self._first = self._lowest = loss
        self._average = KEEP * self._average + (1 - KEEP) * loss
        self._lowest = min(self._lowest, self._average)
        return self._average > max(self._first, self._stop_factor * self._lowest)


def _settings(like: Any) -> dict[str, Any]:
    """Return what holds for a user's trainer and must hold here, too."""
    names = ("precision", "gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches")
    return {} if like is None else {name: getattr(like, name) for name in names}


def _loaders(data: Any) -> Any:
    """Copy loaders, not their data: an iterator that stays open is then the copy's."""
    if isinstance(data, DataLoader):
        return copy.copy(data)
    if isinstance(data, dict):
        return {name: _loaders(each) for name, each in data.items()}
    return [_loaders(each) for each in data] if type(data) in (list, tuple) else data


@contextmanager
def _kept_states() -> Iterator[None]:
    """Put the random states of Python, NumPy and torch back."""
    numpy = sys.modules.get("numpy")
    python, legacy = random.getstate(), numpy.random.get_state() if numpy else None
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        if numpy:
            numpy.random.set_state(legacy)


@contextmanager
def _kept_generators(data: Any) -> Iterator[None]:
    """Put back what loaders and their samplers draw from, and the epoch they are in."""
    parts = list(_parts(data))
    states = [(g, g.get_state()) for g in _generators(parts)]
    epochs = [(p, p.epoch) for p in parts if isinstance(getattr(p, "epoch", None), int)]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)
        for part, epoch in epochs:
            part.epoch = epoch


def _parts(data: Any) -> Iterator[Any]:
    if isinstance(data, dict):
        data = list(data.values())
    for each in data if isinstance(data, (list, tuple)) else [data]:
        yield each
        for name in ("sampler", "batch_sampler"):
            part = getattr(each, name, None)
            yield from () if part is None else (part, getattr(part, "sampler", None))


def _generators(parts: Sequence[Any]) -> list[torch.Generator]:
    found = [getattr(part, "generator", None) for part in parts]
    return [generator for generator in found if isinstance(generator, torch.Generator)]


@contextmanager
def _quiet(namespace: str) -> Iterator[None]:
    """Keep what Lightning tells of a training that the user did not start to itself."""
    logger = logging.getLogger(namespace)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Advice on loaders and steps; what the module itself warns of is the module's.
            warnings.filterwarnings("ignore", module=namespace.replace(".", r"\."))
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _kept_flags() -> Iterator[None]:
    """Put back what a Trainer sets for the whole process when it is made."""
    benchmark = torch.backends.cudnn.benchmark
    strict = torch.are_deterministic_algorithms_enabled()
    mild = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
        torch.use_deterministic_algorithms(strict, warn_only=mild)
