"""A training that takes note of which samples it is on."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from runs import data
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


def numbered(samples: int = 48, batch_size: int = 12, *, shuffle: bool = True) -> DataLoader[Any]:
    """Return batches of input, class and position in the data set."""
    x, y = data(samples).dataset.tensors  # type: ignore[attr-defined]
    return DataLoader(TensorDataset(x, y, torch.arange(samples)), batch_size, shuffle=shuffle)


class Numbered(pl.LightningModule):
    """A classifier that takes note of what it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.net: Any = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        self.trained: list[list[int]] = []

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch."""
        return functional.cross_entropy(self.net(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the loss of a batch."""
        x, y, index = batch
        if torch.is_grad_enabled():
            self.trained.append(index.tolist())
        return self.loss(x, y)

    def configure_optimizers(self) -> Any:
        """Return plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Reference(pl.Callback):
    """Keeps the loss of each sample of a batch before it is trained on."""

    def __init__(self) -> None:
        self.losses: list[dict[int, float]] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        """Compute them one by one."""
        x, y, index = batch
        with torch.no_grad():
            each = [float(module.loss(x[i : i + 1], y[i : i + 1])) for i in range(len(x))]
        self.losses.append(dict(zip(index.tolist(), each, strict=True)))
