"""The demo's networks, settings and data: real handwritten digits.

scikit-learn brings the data with it: 1,797 pictures of 8 x 8 pixels, a part of the UCI "Optical
Recognition of Handwritten Digits" set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lightning_diag._compat import NAMESPACES

LIGHTNING: Any = next(iter(NAMESPACES.values()))
"""The namespace that is installed, of two the one imported first."""


@dataclass(frozen=True)
class Experiment:
    """One training of the demo."""

    name: str
    """Name of its folder."""
    title: str
    """What kind of net it is."""
    details: str
    """How it is built and trained."""
    network: Callable[[], nn.Module]
    """Makes the network."""
    optimizer: Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]
    """Makes its optimizer."""


def network(activation: Callable[[], nn.Module], *, layers: int, width: int) -> nn.Module:
    """Return a net of equal hidden layers for 64 pixels and 10 digits."""
    sizes = [64] + layers * [width]
    hidden = [
        module
        for inputs, outputs in pairwise(sizes)
        for module in (nn.Linear(inputs, outputs), activation())
    ]
    return nn.Sequential(*hidden, nn.Linear(width, 10))


EXPERIMENTS = (
    Experiment(
        "healthy",
        "A healthy net",
        "3 hidden layers of 128 ReLU units, Adam, learning rate 0.001",
        lambda: network(nn.ReLU, layers=3, width=128),
        lambda parameters: torch.optim.Adam(parameters, lr=0.001),
    ),
    Experiment(
        "deep-sigmoid",
        "A deep net of sigmoids",
        "8 hidden layers of 128 sigmoid units, SGD with momentum, learning rate 0.1",
        lambda: network(nn.Sigmoid, layers=8, width=128),
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    ),
    Experiment(
        "high-learning-rate",
        "The first net, with a high learning rate",
        "3 hidden layers of 128 ReLU units, Adam, learning rate 0.05",
        lambda: network(nn.ReLU, layers=3, width=128),
        lambda parameters: torch.optim.Adam(parameters, lr=0.05),
    ),
)
"""Chosen so that no seed has to be lucky: of seeds 0 to 19, the last one killed 34 to 49 % of its
units, 40 % in the middle, and read between 41 and 91 % of unseen digits."""


class Classifier(LIGHTNING.LightningModule):  # type: ignore[misc]  # of either namespace
    """What a user writes: a network, its loss, its optimizer. It knows nothing of `Doctor`.

    Args:
        experiment: What to train.
    """

    def __init__(self, experiment: Experiment) -> None:
        super().__init__()
        self.net = experiment.network()
        self.experiment = experiment

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        pictures, digits = batch
        return nn.functional.cross_entropy(self.net(pictures), digits)

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Log the share of digits that are recognised."""
        pictures, digits = batch
        accuracy = (self.net(pictures).argmax(1) == digits).float().mean()
        self.log("accuracy", accuracy, batch_size=len(digits))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the experiment's optimizer."""
        return self.experiment.optimizer(self.net.parameters())


def digits(seed: int) -> tuple[TensorDataset, TensorDataset]:
    """Return training and validation set, with equal shares of each digit.

    Both are standardised by the training set's statistics: the validation set's own would leak.
    """
    from sklearn.datasets import load_digits  # noqa: PLC0415 (an extra)
    from sklearn.model_selection import train_test_split  # noqa: PLC0415

    pictures, labels = load_digits(return_X_y=True)
    parts = train_test_split(pictures, labels, test_size=0.25, stratify=labels, random_state=seed)
    train, val, train_labels, val_labels = (torch.as_tensor(part) for part in parts)
    mean, std = train.mean(0), train.std(0)
    # Pixels at the edge that are never inked have no spread to divide by.
    std[std == 0] = 1.0
    return (
        TensorDataset(((train - mean) / std).float(), train_labels),
        TensorDataset(((val - mean) / std).float(), val_labels),
    )
