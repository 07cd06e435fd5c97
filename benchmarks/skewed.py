"""Digits made imbalanced or partly hard, and one small training on them.

Every setting is drawn anew from a seed: which classes are rare, and which samples are trained on.
What is not trained on is the test set.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

HARD = (3, 8, 9)
RATIO = 50
BATCH, STEPS = 64, 300
Loss = Callable[[Tensor, Tensor], Tensor]


class Data(NamedTuple):
    """One draw of a setting."""

    x: Tensor
    """``(samples, 64)``: what is trained on."""
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    minority: tuple[int, ...]
    """The classes whose recall is asked for: the rarest three, or the hard ones."""

    @property
    def counts(self) -> Tensor:
        """Samples of each class that are trained on."""
        return torch.bincount(self.y)


class Scores(NamedTuple):
    """What a training came to, all from 0 to 1."""

    macro: float
    """Mean over classes of their recall."""
    minority: float
    """The same over the rare or hard classes."""
    overall: float
    """Accuracy where classes are as frequent as among what was trained on."""


@lru_cache(maxsize=1)
def _digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    return (torch.tensor(found.data).float() - 5) / 6, torch.tensor(found.target)


def _split(
    x: Tensor, y: Tensor, numbers: Sequence[int], draw: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return so many samples of each class, and all others."""
    chosen = torch.zeros(len(y), dtype=torch.bool)
    for label, number in enumerate(numbers):
        places = (y == label).nonzero()[:, 0]
        chosen[places[torch.randperm(len(places), generator=draw)[:number]]] = True
    return x[chosen], y[chosen], x[~chosen], y[~chosen]


def tail(seed: int, wrong: float = 0.0) -> Data:
    """Ten classes, each rarer than the last: from 150 samples to 3.

    Args:
        seed: Says in which order, and which samples.
        wrong: Share of the labels trained on that are changed to another class.
    """
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(10, generator=draw).tolist()
    numbers = [0] * 10
    for i, label in enumerate(order):
        numbers[label] = round(150 * RATIO ** (-i / 9))
    x, y, test_x, test_y = _split(*_digits(), numbers, draw)
    is_wrong = torch.rand(len(y), generator=draw) < wrong
    other = (y + torch.randint(1, 10, y.shape, generator=draw)) % 10
    return Data(x, other.where(is_wrong, y), test_x, test_y, tuple(sorted(order[-3:])))


def rare(seed: int) -> Data:
    """A 3, 8 or 9, 24 times, against 1,200 of all other digits: yes or no."""
    draw = torch.Generator().manual_seed(seed)
    x, y = _digits()
    y = (y == HARD[seed % len(HARD)]).long()
    return Data(*_split(x, y, [1200, 1200 // RATIO], draw), minority=(1,))


def hard(seed: int) -> Data:
    """As many of each class, but 3, 8 and 9 under noise that is twice as strong as the picture."""
    draw = torch.Generator().manual_seed(seed)
    x, y = _digits()
    noise = 2 * torch.randn(x.shape, generator=draw)
    x = (x + noise).where(torch.isin(y, torch.tensor(HARD))[:, None], x)
    return Data(*_split(x, y, [100] * 10, draw), minority=HARD)


SETTINGS: dict[str, Callable[[int], Data]] = {
    "long tail": tail,
    "long tail, 5 % wrong labels": lambda seed: tail(seed, 0.05),
    "one rare class": rare,
    "hard classes": hard,
}


class Learner(pl.LightningModule):
    """Two hidden layers and any loss."""

    def __init__(self, classes: int, loss: Loss, lr: float, decay: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()), nn.Linear(64, classes)
        )
        self.loss, self.lr, self.decay = loss, lr, decay

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        return self.loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        """Return AdamW, at a rate that does not change."""
        return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.decay)


def fit(
    data: Data,
    loss: Loss,
    *,
    lr: float,
    decay: float,
    callbacks: Sequence[Any] = (),
    seed: int = 0,
    steps: int = STEPS,
) -> Learner:
    """Train, and return what has been trained."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.manual_seed(seed)
    module = Learner(len(data.counts), loss, lr, decay)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pl.Trainer(
            accelerator="cpu",
            max_steps=steps,
            max_epochs=-1,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(module, DataLoader(TensorDataset(data.x, data.y), BATCH, shuffle=True))
    return module


def scores(module: Learner, data: Data) -> Scores:
    """Return how well the test set is told apart."""
    with torch.no_grad():
        hits = (module.net(data.test_x).argmax(1) == data.test_y).double()
    number = len(data.counts)
    tested = torch.bincount(data.test_y, minlength=number)
    recall = torch.bincount(data.test_y, hits, minlength=number) / tested
    shares = data.counts / data.counts.sum()
    return Scores(
        recall.mean().item(),
        recall[list(data.minority)].mean().item(),
        (recall * shares).sum().item(),
    )
