"""Small modules, data and trainers that tests of the monitors share."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag.history import History
from lightning_diag.monitors.activation import ActivationMonitor
from lightning_diag.monitors.base import Monitor
from lightning_diag.monitors.batch_norm import BatchNormMonitor
from lightning_diag.monitors.data import DataMonitor
from lightning_diag.monitors.dead_relu import DeadReLUTracker
from lightning_diag.monitors.examples import WorstExamples
from lightning_diag.monitors.filters import FilterMonitor
from lightning_diag.monitors.gradient import GradientMonitor
from lightning_diag.monitors.loss import LossMonitor
from lightning_diag.monitors.noise import GradientNoiseMonitor
from lightning_diag.monitors.noise_scale import GradientNoiseScale
from lightning_diag.monitors.output import OutputMonitor
from lightning_diag.monitors.setup import SetupMonitor
from lightning_diag.monitors.update_ratio import UpdateRatioLogger
from lightning_diag.monitors.validation import ValidationMonitor
from lightning_diag.monitors.weight import WeightMonitor

MONITORS: list[Callable[..., Monitor]] = [
    GradientMonitor,
    ActivationMonitor,
    DeadReLUTracker,
    UpdateRatioLogger,
    LossMonitor,
    WeightMonitor,
    SetupMonitor,
    OutputMonitor,
    BatchNormMonitor,
    GradientNoiseMonitor,
    GradientNoiseScale,
    DataMonitor,
    ValidationMonitor,
    FilterMonitor,
    WorstExamples,
]
EVERY_STEP: dict[str, Any] = {"every_n_steps": 1, "max_overhead": 1e9, "startup_seconds": 1e9}
"""Watch every step, whatever it costs."""


def data(samples: int = 48, batch_size: int = 8, *, shuffle: bool = False) -> DataLoader[Any]:
    """Return a loader of 8 features and 3 classes."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(samples, 8, generator=generator)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return DataLoader(TensorDataset(x, y), batch_size, shuffle=shuffle)


class Net(nn.Module):
    """Mixes modules, functions and in-place calls, batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(16)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Linear(16, 16)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return three logits a sample."""
        h = self.relu(self.norm(self.first(x)))
        h = h + torch.tanh(self.second(h))
        h = self.drop(self.relu(h))
        out: Tensor = self.head(h)
        return out


class Classifier(pl.LightningModule):
    """Cross-entropy on `Net`, or on another network."""

    def __init__(
        self,
        net: nn.Module | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
    ) -> None:
        super().__init__()
        self.net: Any = Net() if net is None else net
        self.make_optimizer = optimizer or (lambda p: torch.optim.AdamW(p, lr=1e-2))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        x, y = batch
        return functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer that the constructor was given."""
        return self.make_optimizer(self.parameters())


class Evaluated(Classifier):
    """The same, with steps to validate, test and predict."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Run the network."""
        self.net(batch[0])

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Run the network."""
        out: Tensor = self.net(batch[0])
        return out


def seeded(make: Callable[[], Any], seed: int = 0) -> Any:
    """Call `make` with all random states fixed."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # the global state is what is compared
    torch.manual_seed(seed)
    return make()


def trainer(*callbacks: Any, **options: Any) -> pl.Trainer:
    """Return a quiet trainer on the CPU."""
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
    }
    return pl.Trainer(callbacks=list(callbacks), **{**settings, **options})


def history(path: Any = ".") -> History:
    """Open the history that a run in this folder has written."""
    return History.open(f"{path}/lightning_diag")


def all_monitors(**options: Any) -> list[Monitor]:
    """Return one of each monitor, watching every step."""
    return [make(**{**EVERY_STEP, **options}) for make in MONITORS]
