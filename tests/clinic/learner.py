"""`Learner`: a recipe as a Lightning module, with the faults of its steps and its set-up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from .data import Data
from .recipe import Recipe

LOSSES: dict[str, str] = {
    "classes": "cross_entropy",
    "tokens": "cross_entropy",
    "pixels": "cross_entropy",
    "binary": "binary_cross_entropy_with_logits",
    "labels": "binary_cross_entropy_with_logits",
    "values": "mse_loss",
    "copy": "mse_loss",
}
"""Kind of data to the loss that fits."""


def _schedule(name: str, steps: int) -> Callable[[int], float]:
    def cosine(step: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * min(1.0, step)))

    shapes: dict[str, Callable[[int], float]] = {
        "warmup": lambda step: min(1.0, (step + 1) / (0.3 * steps)),
        "cosine": lambda step: cosine(step / steps),
        "warmup-cosine": lambda step: min(1.0, (step + 1) / (0.1 * steps)) * cosine(step / steps),
        "one-cycle": lambda step: (
            0.1 + 0.9 * min(1.0, step / (0.3 * steps)) if step < 0.3 * steps
            else cosine((step / steps - 0.3) / 0.7)
        ),
        "step": lambda step: 0.1 ** (2 * step // steps),
    }  # fmt: skip
    return shapes[name]


class Learner(pl.LightningModule):
    """Trains a network on a kind of data."""

    def __init__(self, recipe: Recipe, net: nn.Module, data: Data) -> None:
        super().__init__()
        self.recipe, self.net, self.kind = recipe, net, data.kind
        self.loss_name = recipe.loss or LOSSES[data.kind]
        self.as_module: nn.Module | None = None
        if recipe.seed % 2 and not recipe.loss and not recipe.smoothing:
            classes = {"cross_entropy": nn.CrossEntropyLoss, "mse_loss": nn.MSELoss}
            made = classes.get(self.loss_name, nn.BCEWithLogitsLoss)
            self.as_module = made(reduction="sum" if recipe.fault("sum") else "mean")
        self._prepare()

    def _prepare(self) -> None:
        """Freeze what the recipe wants frozen."""
        share = self.recipe.fault("frozen_share")
        if share:
            layers = [m for m in self.net.modules() if list(m.parameters(recurse=False))]
            for layer in layers[: max(1, int(share * len(layers)))]:
                for parameter in layer.parameters():
                    parameter.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out

    def criterion(self, out: Tensor, y: Tensor) -> Tensor:
        """Return the loss, with the recipe's faults."""
        recipe = self.recipe
        if recipe.fault("broadcast"):
            y = y.squeeze(1)
        if recipe.fault("square_classes"):
            return functional.mse_loss(out[:, 0], y.float())
        if recipe.fault("probabilities_as_logs"):
            return functional.nll_loss(out.softmax(1), y)
        if self.as_module is not None:
            loss: Tensor = self.as_module(out, y)
        else:
            extra: dict[str, Any] = {"reduction": "sum"} if recipe.fault("sum") else {}
            if recipe.smoothing:
                extra["label_smoothing"] = recipe.smoothing
            loss = getattr(functional, self.loss_name)(out, y, **extra)
        penalty = recipe.fault("penalty")
        if penalty:
            loss = loss + penalty * sum(p.square().sum() for p in self.net.parameters())
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        (-loss if self.recipe.fault("ascends") else loss).backward()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        out = self(self._spoiled(x))
        loss = self.criterion(out, y)
        if self.recipe.logs_metric:
            self.log("train_acc", self._metric(out, y))
        return loss

    def _spoiled(self, x: Tensor) -> Tensor:
        """Return the batch, or a broken one at the step that the recipe names."""
        recipe, step = self.recipe, self.global_step
        at = recipe.fault("bad_batch_at")
        if at is not None and step == int(at * recipe.steps):
            return x * (recipe.fault("bad_batch_size") or 1000.0)
        at = recipe.fault("nan_batch_at")
        return x * torch.nan if at is not None and step == int(at * recipe.steps) else x

    def _metric(self, out: Tensor, y: Tensor) -> Tensor:
        if self.recipe.fault("wrong_metric"):
            y = y.roll(1, 0)
        return score(out, y, self.kind)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        out = self(x)
        self.log("val_loss", self.criterion(out, y))
        self.log("val_acc" if self.kind in _COUNTED else "val_r2", self._metric(out, y))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        since = self.recipe.fault("eval_mode_since")
        if since is not None and self.global_step >= since * self.recipe.steps:
            self.net.eval()

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        parameters = [p for p in self.net.parameters() if p.requires_grad]
        forgotten = recipe.fault("forgotten")
        if forgotten:
            parameters = parameters[int(forgotten * len(parameters)) :]
        makers: dict[str, Callable[..., torch.optim.Optimizer]] = {
            "sgd": torch.optim.SGD,
            "momentum": lambda p, **k: torch.optim.SGD(
                p, momentum=recipe.fault("momentum") or 0.9, **k
            ),
            "adam": torch.optim.Adam,
            "adamw": torch.optim.AdamW,
            "rmsprop": torch.optim.RMSprop,
            "nadam": torch.optim.NAdam,
            "adagrad": torch.optim.Adagrad,
        }
        decay = recipe.weight_decay
        optimizer = makers[recipe.optimizer](parameters, lr=recipe.lr, weight_decay=decay)
        if not recipe.schedule:
            return optimizer
        shape = _schedule(recipe.schedule, recipe.steps)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, shape)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


_COUNTED = ("classes", "tokens", "pixels", "binary", "labels")


def score(out: Tensor, y: Tensor, kind: str) -> Tensor:
    """Return the share of right answers, or the share of the variance that is explained."""
    if kind in ("classes", "tokens", "pixels"):
        return (out.argmax(1) == y).float().mean()
    if kind in ("binary", "labels"):
        return ((out > 0) == (y > 0.5)).float().mean()
    return 1 - (out - y).square().mean() / (y - y.mean(0)).square().mean().clamp(min=1e-12)
