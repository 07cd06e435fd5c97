"""What the examples here share: handwritten digits, and a training that `Doctor` watches."""

from __future__ import annotations

import argparse
import itertools
import logging
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag import Doctor

HERE = Path("lightning_logs", "clinic", Path(sys.argv[0]).stem)
parser = argparse.ArgumentParser(description="Trains networks, and prints what Doctor says.")
parser.add_argument("--out", type=Path, default=HERE, help="folder of the reports")
OUT: Path = parser.parse_args().out
NUMBERS = itertools.count(1)

# Same weights and same batches each time; for nets this small more threads only wait.
torch.manual_seed(0)
torch.set_num_threads(1)
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", ".*does not have many workers")
warnings.filterwarnings("ignore", category=FutureWarning, module=r".*lightning\b")


def pixels() -> tuple[TensorDataset, TensorDataset]:
    """Return 1,347 digits to train on and 450 to validate with: 64 pixels each, from 0 to 1."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16).float(), torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, held_out = order[450:], order[:450]
    return TensorDataset(x[train], y[train]), TensorDataset(x[held_out], y[held_out])


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Return the same, standardised: both by mean and standard deviation of the first."""
    (x, y), (held_x, held_y) = (part.tensors for part in pixels())
    mean, std = x.mean(), x.std()
    return TensorDataset((x - mean) / std, y), TensorDataset((held_x - mean) / std, held_y)


class Classifier(pl.LightningModule):
    """A network and its loss; it knows nothing of `Doctor`."""

    def __init__(self, net: nn.Module, optimizer: Callable[..., Any], lr: float) -> None:
        super().__init__()
        self.net, self.optimizer, self.lr = net, optimizer, lr

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        scores = self.net(batch[0])
        self.log("val_loss", functional.cross_entropy(scores, batch[1]))
        self.log("val_accuracy", (scores.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.net.parameters(), lr=self.lr)


def train(
    title: str,
    net: nn.Module,
    data: TensorDataset,
    held_out: TensorDataset,
    *,
    lr: float,
    optimizer: Callable[..., Any] = torch.optim.SGD,
    batch_size: int = 64,
    steps: int = 400,
    clip: float | None = None,
) -> None:
    """Train a network; print what Doctor says of it, and how it ended."""
    print(f"\n{title}\n{'=' * len(title)}")
    # A look at every tenth step, since the run is so short.
    folder = OUT / re.sub(r"\W+", "-", f"{next(NUMBERS)} {title.lower()}").strip("-")
    doctor = Doctor(every_n_steps=10, dirpath=str(folder))
    trainer = pl.Trainer(
        callbacks=[doctor],
        max_steps=steps,
        max_epochs=-1,
        gradient_clip_val=clip,
        val_check_interval=steps // 20,
        check_val_every_n_epoch=None,
        accelerator="cpu",
        devices=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(
        Classifier(net, optimizer, lr),
        DataLoader(data, batch_size, shuffle=True, drop_last=True),
        DataLoader(held_out, len(held_out)),
    )
    losses = doctor.history.series("loss/train").values
    right = float(trainer.callback_metrics["val_accuracy"])
    print(f"  Outcome       loss from {losses[0]:.3g} to {losses[-1]:.3g}, ", end="")
    print(f"{right:.0%} of unseen samples are classified right")
