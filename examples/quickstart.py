"""Five lines of use, on handwritten digits: `pip install 'lightning-diag[demo]'`, then run me."""

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag import Doctor

images, labels = load_digits(return_X_y=True)
images = (images - images.mean()) / images.std()
data = TensorDataset(torch.tensor(images).float(), torch.tensor(labels))


class Digits(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


doctor = Doctor()
trainer = pl.Trainer(max_epochs=10, callbacks=[doctor])
trainer.fit(Digits(), DataLoader(data, batch_size=64, shuffle=True))

for finding in doctor.findings:
    print(finding.code, finding.places, finding.remedy)
print(f"loss {doctor.history.series('loss/train').values[-1]:.2f}")
