"""Short trainings on scikit-learn's digits, for searches."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


def digits(batch_size: int = 32) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return 1024 digits to train on, and 512 to validate on."""
    found = load_digits()
    x = torch.tensor(found.data / 16 - 0.5, dtype=torch.float32)
    y = torch.tensor(found.target)
    return (
        DataLoader(TensorDataset(x[:1024], y[:1024]), batch_size),
        DataLoader(TensorDataset(x[1024:1536], y[1024:1536]), 512),
    )


def classifier(lightning: ModuleType, lr: float, width: int = 32) -> Any:
    """Return a small classifier that SGD trains."""

    class Classifier(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return functional.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", functional.cross_entropy(self.net(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr, momentum=0.9)

    return Classifier()
