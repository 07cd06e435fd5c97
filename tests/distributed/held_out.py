"""Scenarios: the worst samples of a validation that two ranks share, one of them repeated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from distributed.shown import Seeing
from distributed.training import BATCH, Seat, fit, keeper
from lightning_diag import WorstExamples

STEPS = 4
SAMPLES = 53
"""An odd number: the second rank gets the first sample once more."""
NAME = "example/worst_validation"


class Valid(Seeing):
    """Keeps the loss of each sample that it validates, as computed one by one."""

    by_hand_on = -1
    """The rank that computes its loss by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: dict[int, float] = {}

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Any:
        """Return a cross-entropy."""
        return functional.cross_entropy(self._out(batch[0]), batch[1])

    def _out(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.conv(x)).flatten(1))
        return out

    def on_validation_start(self) -> None:
        """Begin anew."""
        self.losses = {}

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Compute the loss once for all, and once for each."""
        x, y, number = batch
        out = self._out(x)
        own = [
            float(-row.log_softmax(0)[target]) for row, target in zip(out, y.tolist(), strict=True)
        ]
        self.losses.update(zip(number.tolist(), own, strict=True))
        if self.global_rank != self.by_hand_on:
            functional.cross_entropy(out, y)


class Data(pl.LightningDataModule):
    """Halves of each batch to train on, and samples to validate on that ranks share."""

    def __init__(self, seat: Seat, *, shuffle: bool = False, batch_size: int = 4) -> None:
        super().__init__()
        self.seat, self.shuffle, self.batch_size = seat, shuffle, batch_size

    def _tensors(self, samples: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(samples, 1, 6, 6, generator=generator, dtype=torch.float64)
        return x, torch.randint(3, (samples,), generator=generator)

    def train_dataloader(self) -> Any:
        """Return this rank's part."""
        parts = self._tensors(STEPS * BATCH, 8)
        shared = (self.seat.share_of(part.view(STEPS, BATCH, *part.shape[1:])) for part in parts)
        return DataLoader(TensorDataset(*shared), batch_size=BATCH // self.seat.ranks)

    def val_dataloader(self) -> Any:
        """Return samples of which the first, which is repeated, is far off."""
        x, y = self._tensors(SAMPLES, 9)
        x[0] *= 20
        dataset = TensorDataset(x, y, torch.arange(SAMPLES))
        sampler: DistributedSampler[Any] | None = None
        if self.seat.ranks > 1:
            sampler = DistributedSampler(dataset, shuffle=self.shuffle, seed=3)
        return DataLoader(dataset, batch_size=self.batch_size, sampler=sampler)


def _fit(seat: Seat, net: Valid, data: Data, monitor: Any = None) -> dict[str, Any]:
    keep = keeper(every_n_steps=1)
    options = {"strategy": "ddp_find_unused_parameters_true"} if seat.ranks > 1 else {}
    result = fit(
        seat,
        net,
        data,
        keep=keep,
        callbacks=[monitor or WorstExamples()],
        precision="64-true",
        max_epochs=2,
        **options,
    )
    shown = keep.history.shown(NAME)
    losses = [[number, loss] for number, loss in net.losses.items()]
    return {**result, "shown": shown, "validated": losses}


def in_order(seat: Seat) -> dict[str, Any]:
    """Validate on samples in order, shared by torch's sampler."""
    return _fit(seat, Valid(), Data(seat))


def shuffled(seat: Seat) -> dict[str, Any]:
    """The same, shuffled anew in each epoch."""
    return _fit(seat, Valid(), Data(seat, shuffle=True))


def one_by_one(seat: Seat) -> dict[str, Any]:
    """More batches than one rank may look at alone, and no pictures to tell samples apart."""
    return _fit(seat, Valid(), Data(seat, batch_size=1), WorstExamples(pictures=False))


def by_hand(seat: Seat) -> dict[str, Any]:
    """Validate with a rank whose loss cannot be seen."""
    net = Valid()
    net.by_hand_on = 1
    return _fit(seat, net, Data(seat))


class Fails(WorstExamples):
    """Fails on one rank, in the middle of a validation."""

    def validation_loss(self, call: Any) -> None:
        """Raise on the second rank."""
        if self._run is not None and self._run.module.global_rank == 1:
            raise RuntimeError("no looking here")
        super().validation_loss(call)


def failing(seat: Seat) -> dict[str, Any]:
    """Let one rank fail when it looks."""
    return _fit(seat, Valid(), Data(seat), Fails())


TOGETHER: list[Callable[[Seat], Any]] = [in_order, shuffled, one_by_one, by_hand, failing]
ALONE: list[Callable[[Seat], Any]] = [in_order]
