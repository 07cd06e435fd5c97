"""Scenarios: every sample of a data set that two ranks share is followed over the epochs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from distributed.training import Seat, fit, keeper
from lightning_diag import WorstExamples

SAMPLES, EPOCHS, WRONG = 21, 4, [3, 16]
"""An odd number of samples: the second rank gets one of the first once more."""


class Told(pl.LightningModule):
    """Keeps the margin of each sample, as computed one by one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Linear(3, 3)
        self.margins: list[tuple[int, float]] = []

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """Return a cross-entropy."""
        x, y, number = batch
        out = self.net(x)
        for i, row, label in zip(number.tolist(), out.softmax(1).tolist(), y.tolist(), strict=True):
            other = max(row[:label] + row[label + 1 :])
            self.margins.append((i, row[label] - other))
        return functional.cross_entropy(out, y)

    def configure_optimizers(self) -> Any:
        """Learn fast."""
        return torch.optim.Adam(self.parameters(), 0.3)


class Data(pl.LightningDataModule):
    """Three classes far apart, with two wrong labels."""

    def __init__(self, seat: Seat, *, is_shared: bool = True) -> None:
        super().__init__()
        self.seat, self.is_shared = seat, is_shared

    def train_dataloader(self) -> Any:
        """Return what torch's sampler shares, or what is this rank's own."""
        generator = torch.Generator().manual_seed(8)
        true = torch.randint(3, (SAMPLES,), generator=generator)
        x = 2.0 * functional.one_hot(true, 3) + 0.1 * torch.randn(SAMPLES, 3, generator=generator)
        y = true.clone()
        y[WRONG] = (y[WRONG] + 1) % 3
        dataset = TensorDataset(x, y, torch.arange(SAMPLES))
        sampler: DistributedSampler[Any] | None = None
        if self.is_shared and self.seat.ranks > 1:
            sampler = DistributedSampler(dataset, shuffle=True, seed=3)
        return DataLoader(dataset, batch_size=4, sampler=sampler)


class Saves(pl.Callback):
    """Writes a checkpoint at each end of an epoch, where both ranks see it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Write it."""
        trainer.save_checkpoint(self.folder / f"epoch{trainer.current_epoch}.ckpt")


def _fit(seat: Seat, callbacks: Sequence[Any], **options: Any) -> dict[str, Any]:
    keep, net = keeper(every_n_steps=1), Told()
    data = Data(seat, is_shared=options.pop("is_shared", True))
    options = {"max_epochs": EPOCHS, "use_distributed_sampler": False, **options}
    result = fit(seat, net, data, keep=keep, callbacks=callbacks, **options)
    names = ("worst", "mistakes", "suspicious", "never_learnt", "forgotten")
    shown = {name: keep.history.shown(f"example/{name}") for name in names}
    return {**result, "shown": shown, "margins": net.margins}


def _followed(seat: Seat, *others: Any, **options: Any) -> dict[str, Any]:
    monitor = WorstExamples(trends=True)
    result = _fit(seat, [monitor, *others], **options)
    assert monitor.courses is not None
    trends = monitor.courses.trends
    indices = range(SAMPLES if len(trends) else 0)
    return {**result, "courses": [trends.course(i) for i in indices]}


def whole(seat: Seat) -> dict[str, Any]:
    """Follow all samples, and write a checkpoint at each end of an epoch."""
    return _followed(seat, Saves(seat.folder))


def resumed(seat: Seat) -> dict[str, Any]:
    """Go on from the second epoch's end, of the run before."""
    path = seat.folder.parent / f"whole-{seat.ranks}" / "epoch1.ckpt"
    return _followed(seat, resume=path)


def bare(seat: Seat) -> dict[str, Any]:
    """Train without the monitor."""
    return _fit(seat, [])


def own_data(seat: Seat) -> dict[str, Any]:
    """Train on data that each rank brings along."""
    return _followed(seat, is_shared=False)


TOGETHER: list[Callable[[Seat], Any]] = [whole, resumed, bare, own_data]
ALONE: list[Callable[[Seat], Any]] = []
