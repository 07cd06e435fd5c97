"""Small transfers, and what is kept of them: every tensor, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

BATCHES = 4


class Block(nn.Module):
    """A layer with batch norm and dropout, so that much could move in it."""

    def __init__(self, size: int = 6) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)
        self.norm = nn.BatchNorm1d(size)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        """Return as many features."""
        out: Tensor = self.drop(torch.relu(self.norm(self.linear(x))))
        return x + out


class Backbone(nn.Module):
    """Three blocks behind a stem, with a norm that has buffers alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 6)
        self.plain = nn.BatchNorm1d(6, affine=False)
        self.low = Block()
        self.high = Block()

    def forward(self, x: Tensor) -> Tensor:
        """Return as many features."""
        out: Tensor = self.high(self.low(self.plain(self.stem(x))))
        return out


Optimizer = Callable[[Any], torch.optim.Optimizer]
Scheduler = Callable[[torch.optim.Optimizer], Any]


def sgd(parameters: Any) -> torch.optim.Optimizer:
    """Return an optimizer that would move what has no gradient, had it one once."""
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.1)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    """Return AdamW with much decay."""
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.5)


class Transfer(pl.LightningModule):
    """A backbone and a head."""

    def __init__(
        self,
        optimizer: Optimizer = sgd,
        scheduler: Scheduler | None = None,
        interval: str = "step",
    ) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.make, self.schedule, self.interval = optimizer, scheduler, interval
        self.backbone = Backbone()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return three logits a sample."""
        out: Tensor = self.head(self.backbone(x))
        return out

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """Return the loss."""
        x, y = batch
        loss = functional.cross_entropy(self(x), y)
        self.log("loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Log the loss."""
        x, y = batch
        self.log("val_loss", functional.cross_entropy(self(x), y), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Return an optimizer of all parameters, and the scheduler."""
        optimizer = self.make(self.parameters())
        if self.schedule is None:
            return optimizer
        scheduler = {"scheduler": self.schedule(optimizer), "interval": self.interval}
        return {"optimizer": optimizer, "lr_scheduler": {**scheduler, "monitor": "loss"}}


def data(batches: int = BATCHES, size: int = 8, seed: int = 5) -> DataLoader[Any]:
    """Return a loader of three classes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batches * size, 6, generator=generator)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return DataLoader(TensorDataset(x, y), size)


def trainer(*callbacks: Any, **options: Any) -> pl.Trainer:
    """Return a quiet trainer."""
    return pl.Trainer(
        **{
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "max_epochs": 3,
            "callbacks": list(callbacks),
            **options,
        }
    )


def kept(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Return the names of the tensors that are not the same, bit for bit."""
    return {name for name, tensor in before.items() if not _is_same(tensor, after[name])}


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.numpy().tobytes() == other.numpy().tobytes()


def top(names: set[str], depth: int = 2) -> set[str]:
    """Return the first parts of names."""
    return {".".join(name.split(".")[:depth]) for name in names}


class Diary(pl.Callback):
    """Keeps all that a training is, at the end of each epoch."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.moved: list[set[str]] = []
        self.states: list[Any] = []
        self.rates: list[list[tuple[str, float]]] = []
        self.trainable: list[list[str]] = []
        self._last: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin."""
        self._last = kept(pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep what there is, and what of it has moved in this epoch."""
        now = kept(pl_module)
        self.moved.append(moved(self._last, now))
        self.weights.append(now)
        self._last = now
        optimizers = trainer.optimizers
        self.states.append(copy.deepcopy([each.state_dict()["state"] for each in optimizers]))
        self.rates.append(
            [(g["name"], float(g["lr"])) for each in optimizers for g in each.param_groups]
        )
        named = pl_module.named_parameters()
        self.trainable.append([name for name, p in named if p.requires_grad])
