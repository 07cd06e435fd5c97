"""Digits that were learned before help with others: frozen, thawed from the top down, from scratch.

A net that tells 0 to 4 apart learns 5 to 9 from ten labelled pictures each. Each picture is
somewhere in a larger frame, which ten pictures are too few to learn, and 0 to 4 have taught.
`pip install 'lightning-diag[demo]'`, then run me; it takes seconds.
"""

import copy
import logging
from typing import Any

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag import Doctor, LayerFreezing, compare_transfer

torch.set_num_threads(1)
pl.seed_everything(0)
digits = load_digits()
labels = torch.tensor(digits.target)
pictures = torch.zeros(len(labels), 1, 12, 12)
for picture, image, (row, column) in zip(
    pictures, torch.tensor(digits.images / 16), torch.randint(5, (len(labels), 2)), strict=True
):
    picture[0, row : row + 8, column : column + 8] = image
pictures = (pictures - pictures.mean()) / pictures.std()


def loader(chosen: Tensor, first: int, batch_size: int = 50) -> DataLoader[Any]:
    data = TensorDataset(pictures[chosen], labels[chosen] - first)
    return DataLoader(data, batch_size, shuffle=batch_size < 1000)


old = loader((labels < 5).nonzero().flatten(), 0)
order = torch.randperm(len(labels))
of_class = [order[labels[order] == digit] for digit in range(5, 10)]
new = loader(torch.cat([each[:10] for each in of_class]), 5)
held_out = loader(torch.cat([each[10:] for each in of_class]), 5, 1000)


class Digits(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.GELU(), nn.MaxPool2d(2)),
            nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.GELU(), nn.Flatten()),
            nn.Sequential(nn.Linear(32 * 36, 64), nn.GELU()),
        )
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(x))
        return logits

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


class Told(pl.Callback):
    """Says how many unseen pictures are told right when a stage ends."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        print(f"  {trainer.callback_metrics['accuracy']:.1%} after {trainer.global_step} steps")


def train(title: str, module: pl.LightningModule, *callbacks: pl.Callback) -> Doctor:
    """Train on the few pictures of 5 to 9, watched; the report shows layers as they thaw."""
    print(title)
    doctor = Doctor(every_n_steps=5)
    trainer = pl.Trainer(
        max_steps=80, callbacks=[*callbacks, Told(), doctor], accelerator="cpu",
        val_check_interval=20, check_val_every_n_epoch=None, num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, new, held_out)
    for finding in doctor.findings:
        print(" ", finding.code, finding.message)
    return doctor


logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

# 1. Learn 0 to 4, of which there are many.
first = Digits()
quiet: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
pl.Trainer(max_epochs=10, accelerator="cpu", enable_model_summary=False, **quiet).fit(first, old)


# 2. A module for 5 to 9: what was learned is below, and the head is new.
def transferred(_seed: int) -> Digits:
    module = Digits()
    module.backbone = copy.deepcopy(first.backbone)
    return module


# 3. Train the head, then thaw one layer after the other; and compare with training from scratch.
stages: Any = {0: "head", 20: "backbone.2", 40: "backbone.1", 60: "backbone.0"}
train("Thawed from the top down", transferred(0), LayerFreezing(stages, unit="step"))
train("From scratch", Digits())

# 4. Is that chance? Ask with several seeds, each arm at the learning rate that suits it.
print(
    compare_transfer(
        transferred, (new, held_out), head="head", metric="accuracy", steps=30, lr_factors=[1, 3]
    )
)
