"""A model with a fixed opinion of each sample, and what it was trained on."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

HARD = [3, 7, 11]
"""Samples whose targets are beyond the model."""


class Known(nn.Module):
    """Has a fixed opinion of each sample: HARD ones it takes for another class."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return two logits a sample."""
        hard = torch.isin(x[:, 0].long(), torch.tensor(HARD, device=x.device))
        margin = torch.where(hard, -2.0, 2.0) - x[:, 0] / 100
        return self.scale * torch.stack([margin, torch.zeros_like(margin)], 1)


def numbered(samples: int = 18, **options: Any) -> DataLoader[Any]:
    """Return a loader whose inputs tell their position."""
    x = torch.arange(samples).float()[:, None].expand(-1, 8).contiguous()
    options = {"batch_size": 4, "shuffle": True} | options
    return DataLoader(TensorDataset(x, torch.zeros(samples, dtype=torch.long)), **options)


class Diary(pl.Callback):
    """Keeps the samples of each batch, by epoch, and what the loader draws from."""

    def __init__(self) -> None:
        self.epochs: dict[int, list[list[int]]] = {}
        self.samplers: list[Any] = []

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the batch down."""
        self.epochs.setdefault(trainer.current_epoch, []).append(batch[0][:, 0].long().tolist())
        self.samplers.append(trainer.train_dataloader.sampler)

    @property
    def batches(self) -> list[list[int]]:
        """All batches, in order."""
        return [batch for epoch in self.epochs.values() for batch in epoch]

    def drawn(self, epoch: int) -> list[int]:
        """Return the samples of an epoch."""
        return [sample for batch in self.epochs[epoch] for sample in batch]
