"""The training of a range test: a copy of the module in a trainer of its own."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch

from lightning_diag._compat import NAMESPACES, Callback, LightningModule, namespace_of
from lightning_diag.lr.apart import apart, loaders_apart

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
    with apart() as folder, loaders_apart(data) as loaders:
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
        trainer.fit(copy.deepcopy(model), loaders, datamodule=module)
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
