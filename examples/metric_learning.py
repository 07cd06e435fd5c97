"""Embeddings of digits by triplets: hard negatives collapse, semi-hard ones do not.

`pip install 'lightning-diag[demo]' pytorch-metric-learning`, then run me, if you like with the
number of seeds to try; each takes seconds.
"""

import logging
import sys
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import TripletMarginMiner
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag import Doctor

torch.set_num_threads(1)
images, labels = load_digits(return_X_y=True)
x = torch.tensor((images - images.mean()) / images.std()).float()
y = torch.tensor(labels)
held_out = torch.arange(len(y)) % 4 == 0
data: Any = TensorDataset(x[~held_out], y[~held_out])


class Embedding(pl.LightningModule):
    """Puts a digit on the unit sphere, near others of its class."""

    def __init__(self, negatives: str, margin: float = 0.2) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
        distance = LpDistance()  # it normalises what it is given
        self.miner = TripletMarginMiner(margin, type_of_triplets=negatives, distance=distance)
        self.criterion = TripletMarginLoss(margin, distance=distance)

    def forward(self, x: Tensor) -> Tensor:
        vectors: Tensor = nn.functional.normalize(self.net(x))
        return vectors

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        vectors = self(batch[0])
        loss: Tensor = self.criterion(vectors, batch[1], self.miner(vectors, batch[1]))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@torch.no_grad()
def recall(module: Embedding) -> float:
    """Return how often the nearest training digit is of the same class."""
    nearest = torch.cdist(module(x[held_out]), module(x[~held_out])).argmin(1)
    return float((y[~held_out][nearest] == y[held_out]).float().mean())


logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
for negatives in ("hard", "semihard"):
    for seed in range(int(sys.argv[1]) if len(sys.argv) > 1 else 1):
        pl.seed_everything(seed)
        print(f"\nNegatives: {negatives}, seed {seed}")
        module, doctor = Embedding(negatives), Doctor()
        trainer = pl.Trainer(
            max_epochs=10, callbacks=[doctor], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        )  # fmt: skip
        trainer.fit(module, DataLoader(data, batch_size=64, shuffle=True, drop_last=True))
        loss = doctor.history.series("loss/train").values[-1]
        cosine = next(iter(doctor.history.last("output/mean_cosine").values()))
        print(f"Loss {loss:.3f}, cosine of two digits {cosine:.4f}, recall {recall(module):.1%}")
        print("Findings:", *[finding.code for finding in doctor.findings] or ["none"])
