"""Runs whose validation loss is given, for both Lightnings."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def module(lightning: ModuleType, losses: Sequence[float], name: str = "val_loss") -> Any:
    """Return a module whose n-th validation logs the n-th loss; its weights count its steps."""

    class Scripted(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
            self.steps_done = nn.Parameter(torch.zeros(1))
            self.register_buffer("unsaved", torch.zeros(1), persistent=False)
            self.validations = nn.Buffer(torch.zeros(1, dtype=torch.long))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.unsaved.add_(1)
            # SGD with lr 1 and gradient -1: the parameter counts the steps.
            return self.net(batch[0]).square().mean() - self.steps_done.sum()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            if not self.trainer.sanity_checking:
                i = int(self.validations)
                self.log(name, torch.tensor(losses[min(i, len(losses) - 1)]))

        def on_validation_end(self) -> None:
            if not self.trainer.sanity_checking:
                self.validations.add_(1)

        def configure_optimizers(self) -> Any:
            groups: Any = [
                {"params": [self.steps_done], "lr": 1.0},
                {"params": self.net.parameters()},
            ]
            return torch.optim.SGD(groups, 1e-3)

    return Scripted()


def loaders(batches: int = 2) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return training data of so many batches, and one batch to validate on."""
    x = torch.randn(4 * batches, 2, generator=torch.Generator().manual_seed(3))
    return DataLoader(TensorDataset(x), 4), DataLoader(TensorDataset(x[:4]), 4)


def trainer(lightning: ModuleType, *callbacks: Any, **options: Any) -> Any:
    """Return a quiet trainer on the CPU."""
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 40,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return lightning.Trainer(callbacks=list(callbacks), **{**settings, **options})
