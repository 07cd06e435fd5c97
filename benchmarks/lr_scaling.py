"""Goyal et al. 2017 in miniature, on scikit-learn's digits: what warm-up does for large batches.

Trains one network with small batches, and with batches k times larger: at the same learning rate,
at k times that, and at k times that with a gradual warm-up. Prints the validation error of each,
and draws it by epoch::

    python benchmarks/lr_scaling.py --figure docs/images/scaling-digits.png
"""

from __future__ import annotations

import argparse
import logging
import statistics
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag import LinearScalingLR

BATCH, TIMES = 8, 16
LR, MOMENTUM = 0.01, 0.9
DEPTH, WIDTH = 4, 128
WARMUP_EPOCHS = 8
RUNS: dict[str, tuple[int, Sequence[Any]]] = {
    f"batch {BATCH}": (BATCH, ()),
    f"batch {BATCH * TIMES}, same lr": (BATCH * TIMES, ()),
    f"batch {BATCH * TIMES}, lr × {TIMES}": (BATCH * TIMES, (0,)),
    f"batch {BATCH * TIMES}, lr × {TIMES}, warm-up": (BATCH * TIMES, (WARMUP_EPOCHS,)),
}
"""Name to the batch size, and the epochs of warm-up where the learning rate is scaled."""


class Digits(pl.LightningModule):
    """A plain network of ReLUs, without anything that would make large steps harmless."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [64, *[WIDTH] * DEPTH]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Linear(WIDTH, 10))
        self.errors: list[float] = []
        self._wrong: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        x, y = batch
        return functional.cross_entropy(self.net(x), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Count what is wrong."""
        x, y = batch
        self._wrong.append((self.net(x).argmax(1) != y).float().mean().item())

    def on_validation_epoch_end(self) -> None:
        """Keep the error of the epoch, in percent."""
        self.errors.append(100 * statistics.fmean(self._wrong))
        self._wrong = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return SGD at the small batch's learning rate."""
        return torch.optim.SGD(self.parameters(), lr=LR, momentum=MOMENTUM)


def train(batch_size: int, warmup: Sequence[Any], *, epochs: int, seed: int) -> list[float]:
    """Return the validation error of each epoch, in percent."""
    x, y = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order].float() / 16, y[order]
    pl.seed_everything(seed, verbose=False)
    fit = DataLoader(TensorDataset(x[:1408], y[:1408]), batch_size, shuffle=True)
    check = DataLoader(TensorDataset(x[1408:], y[1408:]), 389)
    module = Digits()
    scaling: list[Any] = [LinearScalingLR(BATCH, warmup_epochs=each or None) for each in warmup]
    pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=scaling,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    ).fit(module, fit, check)
    return module.errors


def draw(results: dict[str, list[list[float]]], path: Path) -> None:
    """Draw the median over seeds by epoch, and between which errors all seeds are."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.9), layout="constrained")
    for name, runs in results.items():
        by_epoch = list(zip(*runs, strict=True))
        epochs = range(1, len(by_epoch) + 1)
        (line,) = axes.plot(epochs, [statistics.median(each) for each in by_epoch], label=name)
        low, high = [min(each) for each in by_epoch], [max(each) for each in by_epoch]
        axes.fill_between(epochs, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xlabel="epoch", ylabel="validation error (%)", yscale="log")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Train all, print a table, draw if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", ".*does not have many workers")
    warnings.filterwarnings("ignore", ".*LeafSpec")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    results = {
        name: [train(*run, epochs=options.epochs, seed=seed) for seed in range(options.seeds)]
        for name, run in RUNS.items()
    }
    for name, runs in results.items():
        ends = sorted(run[-1] for run in runs)
        print(f"{name:32} {statistics.median(ends):5.1f} %  ({ends[0]:.1f} to {ends[-1]:.1f})")
    if options.figure:
        draw(results, options.figure)


if __name__ == "__main__":
    main()
