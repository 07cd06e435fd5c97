"""A learning rate from a range test, for a larger batch, warmed up, with a schedule that falls.

`pip install 'lightning-diag[demo]'`, then run me; it takes seconds.
"""

from typing import Any

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag import Doctor, LinearScalingLR, WarmupLR
from lightning_diag.lr.range_test import lr_range_test

images, labels = load_digits(return_X_y=True)
images = (images - images.mean()) / images.std()
data = TensorDataset(torch.tensor(images).float(), torch.tensor(labels))
small = DataLoader(data, batch_size=32, shuffle=True)
large = DataLoader(data, batch_size=128, shuffle=True)


class Digits(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        self.lr = 1e-3

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


# 1. Which learning rate? Asked with batches of 32; the model stays as it is.
pl.seed_everything(0)
model = Digits()
test = lr_range_test(model, small)
model.lr = test.lr or model.lr
print(f"learning rate {model.lr:.2g} for batches of 32 {test.reason}")

# 2. Training uses batches of 128: four times the rate, and a warm-up on the way there.
doctor = Doctor()
callbacks: list[pl.Callback] = [doctor, LinearScalingLR(base_batch_size=32), WarmupLR(epochs=2)]
trainer = pl.Trainer(max_epochs=20, callbacks=callbacks)
trainer.fit(model, large)

for finding in doctor.findings:
    print(finding.code, finding.places, finding.remedy)
print(f"loss {doctor.history.series('loss/train').values[-1]:.3f}")
