"""Measure what the checks before training cost, against a training step.

python benchmarks/preflight.py
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag import Doctor
from lightning_diag.before_training import preflight_outcome


class Network(pl.LightningModule):
    """A classifier."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss."""
        loss = functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        """Return AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Block(nn.Module):
    """A residual block of ResNet-18."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        stride = 1 if before == width else 2
        self.body = nn.Sequential(
            nn.Conv2d(before, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.skip: nn.Module = nn.Identity()
        if stride == 2:
            conv = nn.Conv2d(before, width, 1, stride, bias=False)
            self.skip = nn.Sequential(conv, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return what the block makes of its input."""
        return functional.relu(self.body(x) + self.skip(x))


def resnet() -> nn.Sequential:
    """Return ResNet-18 for small pictures: 11.2 million parameters."""
    widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
    blocks = [Block(a, b) for a, b in pairwise(widths)]
    stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class Words(nn.Module):
    """Six encoder layers of width 256."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1000, 256)
        layer = nn.TransformerEncoderLayer(256, 8, 1024, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits for each sequence."""
        out: Tensor = self.head(self.encoder(self.embedding(x)).mean(1))
        return out


def mlp() -> nn.Sequential:
    """Return two hidden layers of 64 units."""
    return nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )


def cases() -> dict[str, tuple[Callable[[], nn.Module], Tensor, int]]:
    """Return networks by name, with their inputs and batch size."""
    return {
        "MLP, batches of 32": (mlp, torch.randn(256, 64), 32),
        "ResNet-18, 32 pictures of 32 x 32": (resnet, torch.randn(64, 3, 32, 32), 32),
        "transformer, 32 sequences of 64": (Words, torch.randint(0, 1000, (64, 64)), 32),
    }


def seconds(run: Callable[[], object], times: int) -> float:
    """Return the median of some runs, after one that does not count."""
    taken = []
    for _ in range(times + 1):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return median(taken[1:])


def step_of(module: Network, loader: Any) -> float:
    """Return the seconds of a training step in a plain loop."""
    (optimizer,) = [module.configure_optimizers()]
    batch = next(iter(loader))

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(module.net(batch[0]), batch[1]).backward()
        optimizer.step()

    return seconds(step, 5)


def told(s: float) -> str:
    """Return a duration with two digits.

    Example:
        >>> told(0.0236), told(2.87)
        ('24 ms', '2.9 s')
    """
    return f"{s:.2g} s" if s >= 1 else f"{float(f'{1000 * s:.2g}'):g} ms"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5, help="runs behind each number (default: 5)")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.manual_seed(0)
    asked = [check.code for check in Doctor().checks]
    print("| network | parameters | a step | in Doctor | fast | full |")
    print("|---|---|---|---|---|---|")
    for name, (make, x, size) in cases().items():
        module = Network(make())
        loader = DataLoader(TensorDataset(x, torch.arange(len(x)) % 10), size, shuffle=True)
        count = sum(p.numel() for p in module.parameters())
        ask = partial(preflight_outcome, module, loader)
        step = step_of(module, loader)
        row = [f"{count / 1e6:.2g} M", told(step)]
        for level in (asked, "fast", "full"):
            taken = seconds(partial(ask, level=level), options.times)
            row.append(f"{told(taken)} ({taken / step:.2g} steps)")
        print(f"| {name} | {' | '.join(row)} |", flush=True)
    outcome = preflight_outcome(module, loader, level="full")
    slowest = sorted(outcome.seconds.items(), key=lambda pair: -pair[1])
    print(f"\n{name}: " + ", ".join(f"{c} {told(s)}" for c, s in slowest[:8]))


if __name__ == "__main__":
    main()
