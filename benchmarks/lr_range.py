"""How far the suggestions of the learning rate range test depend on the seed, on digits.

For each of two models and two optimizers: range tests with several seeds (of weights and of the
order of the data), trainings at what they suggest, and a grid of learning rates to compare with.

    python benchmarks/lr_range.py [--seeds 10] [--json file] [--figure file.png]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.tuner.tuning import Tuner
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag.figures.range_test import range_figure
from lightning_diag.lr.range_test import lr_range_test

EPOCHS, BATCH = 5, 32
MIN_LR, MAX_LR, STEPS = 1e-7, 10.0, 100
GRID = [10 ** (k / 2) for k in range(-8, 3)]
"""Half decades from 1e-4 to 10."""
LIGHTNING = "Lightning's lr_find"


def mlp() -> nn.Module:
    """Two layers of 64."""
    return nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )


def cnn() -> nn.Module:
    """Two convolutions with batch norm."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * 16, 10),
    )  # fmt: skip


def sgd(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """With a momentum of 0.9."""
    return torch.optim.SGD(parameters, lr, momentum=0.9)


def adam(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """At its defaults."""
    return torch.optim.Adam(parameters, lr)


MODELS: dict[str, Callable[[], nn.Module]] = {"MLP": mlp, "CNN with batch norm": cnn}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"SGD 0.9": sgd, "Adam": adam}


class Classifier(pl.LightningModule):
    """What the range tests train."""

    def __init__(self, model: str, optimizer: str) -> None:
        super().__init__()
        self.lr = 1e-3
        self.net = MODELS[model]()
        self.make = OPTIMIZERS[optimizer]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the cross-entropy."""
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer at the learning rate that is set."""
        return self.make(self.parameters(), lr=self.lr)


@dataclass(frozen=True)
class Row:
    """A method on a model with an optimizer."""

    model: str
    optimizer: str
    method: str
    lrs: list[float]
    """Suggested, seed by seed."""
    without: int
    """Seeds without a suggestion."""
    losses: list[float]
    """Validation losses after training at them."""
    diverged: int
    """Of these trainings: worse than a model that knows nothing, log(10)."""
    best_lr: float
    """Of the grid."""
    best_loss: float
    """Median validation loss there."""


def split() -> tuple[TensorDataset, Tensor, Tensor]:
    """Return 1280 digits to train on, and 517 to validate on."""
    found = load_digits()
    x = torch.tensor(found.data / 16 - 0.5, dtype=torch.float32)
    y = torch.tensor(found.target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return TensorDataset(x[:1280], y[:1280]), x[1280:], y[1280:]


def loader(seed: int) -> DataLoader[Any]:
    """Return batches in an order of their own."""
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(split()[0], BATCH, shuffle=True, generator=generator)


def trained(model: str, optimizer: str, lr: float, seed: int) -> float:
    """Train for a few epochs; return the validation loss, infinite if it is no number."""
    torch.manual_seed(seed)
    network = MODELS[model]()
    steps = OPTIMIZERS[optimizer](network.parameters(), lr)
    batches = loader(seed)
    _, x, y = split()
    for _ in range(EPOCHS):
        for inputs, targets in batches:
            steps.zero_grad()
            functional.cross_entropy(network(inputs), targets).backward()
            steps.step()
    network.eval()
    with torch.no_grad():
        loss = float(functional.cross_entropy(network(x), y))
    return loss if math.isfinite(loss) else math.inf


def suggested(model: str, optimizer: str, seed: int) -> dict[str, float | None]:
    """Return what each method suggests."""
    torch.manual_seed(seed)
    module = Classifier(model, optimizer)
    test = lr_range_test(module, loader(seed), min_lr=MIN_LR, max_lr=MAX_LR, steps=STEPS)
    found: dict[str, float | None] = dict.fromkeys(("valley", "steepest", "minimum/10"))
    found |= {each.name: each.lr for each in test.suggestions}
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=100,
    )  # fmt: skip
    with contextlib.redirect_stderr(io.StringIO()):
        finder = Tuner(trainer).lr_find(
            module, loader(seed), min_lr=MIN_LR, max_lr=MAX_LR, num_training=STEPS,
            update_attr=False,
        )  # fmt: skip
    return {**found, LIGHTNING: None if finder is None else finder.suggestion()}


def measured(model: str, optimizer: str, seeds: int) -> list[Row]:
    """Return the rows of a model with an optimizer."""
    grid = {lr: median(trained(model, optimizer, lr, seed) for seed in range(3)) for lr in GRID}
    best = min(grid, key=lambda lr: grid[lr])
    found = [suggested(model, optimizer, seed) for seed in range(seeds)]
    rows = []
    for method in found[0]:
        pairs = [(seed, lr) for seed, each in enumerate(found) if (lr := each[method])]
        losses = [trained(model, optimizer, lr, seed) for seed, lr in pairs]
        untrained = math.log(10)
        rows.append(
            Row(
                model, optimizer, method, [lr for _, lr in pairs], seeds - len(pairs), losses,
                sum(loss > untrained for loss in losses), best, grid[best],
            )
        )  # fmt: skip
    return rows


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""
    columns = [
        "model", "optimizer", "method", "median", "lowest to highest", "factor",
        "loss, median (worst)", "worse than untrained", "best of the grid",
    ]  # fmt: skip
    lines = [
        f"| {' | '.join(columns)} |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = min(row.lrs), max(row.lrs)
        cells = [
            row.model,
            row.optimizer,
            row.method,
            f"{median(row.lrs):.2g}",
            f"{low:.2g} to {high:.2g}",
            f"{high / low:.1f}",
            f"{median(row.losses):.3f} ({max(row.losses):.3f})",
            f"{row.diverged} of {len(row.lrs)}",
            f"{row.best_loss:.3f} at {row.best_lr:.2g}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="range tests of each (10)")
    parser.add_argument("--figure", type=Path, help="where to draw the first curve, and no more")
    parser.add_argument("--json", type=Path, help="where to write all numbers")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    if arguments.figure is not None:
        torch.manual_seed(0)
        test = lr_range_test(Classifier("MLP", "SGD 0.9"), loader(0))
        range_figure(test).savefig(arguments.figure, dpi=120, metadata={"Software": None})
        return
    target = None if arguments.json is None else arguments.json.resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        rows = [row for m in MODELS for o in OPTIMIZERS for row in measured(m, o, arguments.seeds)]
        os.chdir("/")
    if target is not None:
        target.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    print(table(rows))


if __name__ == "__main__":
    main()
