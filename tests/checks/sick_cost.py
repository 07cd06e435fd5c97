"""Modules and data that take more time or memory than there is, or too large steps."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from checks.subjects import Pair, Plain, mlp, table


class Hungry(Plain):
    """Wants 40 TB for a batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Repeat the loss so often that it does not fit."""
        return super().training_step(batch, batch_idx).repeat(10**13).mean()


def overstepping() -> Pair:
    """Return a classifier whose steps are a thousand times too large."""
    return Plain(mlp(), optimizer=lambda p: torch.optim.SGD(p, 100.0)), table()


class Endless(Dataset[Any]):
    """As many samples as it is told, each of which takes its time."""

    def __init__(self, length: int, seconds: float = 0.0) -> None:
        self.length, self.seconds = length, seconds

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        time.sleep(self.seconds)
        return torch.randn(8), index % 3


def days(batches: int = 10**12) -> Pair:
    """Return a small classifier and a trillion batches."""
    return Plain(mlp()), DataLoader(Endless(16 * batches), 16)


def waiting() -> Pair:
    """Return a small classifier and a loader that is a hundred times slower."""
    return Plain(mlp()), DataLoader(Endless(64, 0.025), 2)
