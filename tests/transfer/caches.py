"""Nets with a frozen part, data, and trainings with and without a cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from runs import trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_diag.transfer.cache import FeatureCache


class Block(nn.Module):
    """A residual block with batch norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.norm(self.conv(x)) + x)
        return out


class Residual(nn.Module):
    """Stages of blocks, with functions and a shape between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.layer1, self.layer2, self.layer3 = Block(6), Block(6), Block(6)
        self.out = nn.Linear(6 * 16, 12)

    def forward(self, x: Tensor) -> Tensor:
        samples = x.shape[0]
        x = functional.max_pool2d(functional.relu(self.stem(x)), 2)
        x = self.layer3(self.layer2(self.layer1(x)))
        return functional.relu(self.out(x.reshape(samples, -1)))


class Transfer(pl.LightningModule):
    """A frozen backbone, and a head with dropout and batch norm."""

    def __init__(self, backbone: nn.Module | None = None, width: int = 12) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.backbone: Any = Residual() if backbone is None else backbone
        self.backbone.requires_grad_(requires_grad=False).eval()
        self.head = nn.Sequential(
            nn.Linear(width, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3)
        )
        self.order: list[list[int]] = []
        self.kinds: list[str] = []
        self.losses: list[float] = []
        self.validated: list[float] = []

    def forward(self, x: Any) -> Tensor:
        out: Tensor = self.head(self.backbone(x))
        return out

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        self.order.append(y.tolist())
        self.kinds.append(type(x).__name__)
        loss = functional.cross_entropy(self(x), y % 3)
        self.log("train_loss", loss, batch_size=len(x))
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.validated.append(functional.cross_entropy(self(x), y % 3).item())

    def configure_optimizers(self) -> Any:
        # Of all parameters: frozen ones have no gradient, so that the optimizer leaves them alone.
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)


def pictures(samples: int = 44, seed: int = 3) -> TensorDataset:
    """Return small pictures whose targets are their numbers."""
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(samples, 1, 8, 8, generator=generator), torch.arange(samples))


class Altered(Dataset[Any]):
    """Pictures with a transform."""

    def __init__(self, transform: Callable[[Tensor], Tensor], samples: int = 44) -> None:
        self.data, self.transform = pictures(samples), transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        x, y = self.data[index]
        return self.transform(x), y


class Scaled:
    """A transform with a setting."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.scale


def noisy(x: Tensor) -> Tensor:
    """Draw another number each time."""
    return x + 0.1 * torch.randn(())


def loader(data: Any = None, *, shuffle: bool = True, **options: Any) -> DataLoader[Any]:
    """Return a loader of batches of 8."""
    return DataLoader(pictures() if data is None else data, 8, shuffle=shuffle, **options)


def fit(
    *callbacks: Any, module: Any = None, data: Any = None, validation: Any = None, **options: Any
) -> Any:
    """Train for three epochs; return the module."""
    module = Transfer() if module is None else module
    resume = options.pop("resume", None)
    torch.manual_seed(5)
    coach = trainer(*callbacks, **{"max_epochs": 3, **options})
    coach.fit(
        module,
        loader() if data is None else data,
        loader(shuffle=False) if validation is None else validation,
        ckpt_path=resume,
    )
    return module


def cache(folder: Any, *arguments: Any, **options: Any) -> FeatureCache:
    """Return a cache of the backbone, unless something else is said."""
    return FeatureCache(str(folder), *(arguments or ("backbone",)), **options)


def same(first: nn.Module, second: nn.Module) -> bool:
    """Whether all weights and buffers are the same, bit for bit."""
    mine, theirs = first.state_dict(), second.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)
