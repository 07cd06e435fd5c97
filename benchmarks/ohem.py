"""What hard example mining costs a step, against plain cross-entropy.

    python benchmarks/ohem.py

Losses take turns within a round, in an order that changes, and are timed by the processor time of
one thread. A row is the median over rounds of a step's time over that of cross-entropy.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_diag import OHEMLoss

ROUNDS = 21
VARIANTS: dict[str, Callable[[], Callable[[Tensor, Tensor], Tensor]]] = {
    "cross_entropy": lambda: functional.cross_entropy,
    "OHEMLoss(keep=0.25)": lambda: OHEMLoss(keep=0.25),
    "OHEMLoss(threshold=0.36)": lambda: OHEMLoss(threshold=0.36),
    "OHEMLoss(ratio={0: 3})": lambda: OHEMLoss(ratio={0: 3}),
    "OHEMLoss(ratio=3)": lambda: OHEMLoss(ratio=3),
}


class Task:
    """A network, a batch, and how many steps are timed at a time."""

    def __init__(self, name: str, network: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
        self.name, self.network, self.x, self.y, self.steps = name, network, x, y, steps
        self.logits = network(x).detach().requires_grad_()

    def step(self, loss: Any) -> None:
        """Train the network for one step."""
        optimizer = torch.optim.SGD(self.network.parameters(), lr=0.0)
        optimizer.zero_grad()
        loss(self.network(self.x), self.y).backward()
        optimizer.step()

    def loss_alone(self, loss: Any) -> None:
        """Compute the loss and its gradient at the logits."""
        torch.autograd.grad(loss(self.logits, self.y), self.logits)


def tasks() -> list[Task]:
    """Return a classifier of vectors, one of pictures, and one of pixels."""
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
    mlp.append(nn.Linear(256, 10))

    def convolutions(last: int) -> nn.Sequential:
        found = nn.Sequential()
        for i, width in enumerate((32, 64, 64)):
            found.append(nn.Conv2d((3, 32, 64)[i], width, 3, padding=1))
            found.append(nn.ReLU())
        return found.append(nn.Conv2d(64, last, 1))

    pictures = nn.Sequential(convolutions(100), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return [
        Task("vectors", mlp, torch.randn(256, 64), torch.randint(0, 10, (256,)), 20),
        Task("pictures", pictures, torch.randn(64, 3, 32, 32), torch.randint(0, 100, (64,)), 1),
        Task(
            "pixels", convolutions(19), torch.randn(2, 3, 128, 128),
            torch.randint(0, 19, (2, 128, 128)), 1,
        ),
    ]  # fmt: skip


def ratios(run: Callable[[Any], None], steps: int) -> dict[str, float]:
    """Return each variant's time over that of cross-entropy."""
    losses = {name: make() for name, make in VARIANTS.items()}
    found: dict[str, list[float]] = {name: [] for name in losses}
    for number in range(ROUNDS + 1):
        spent = {}
        for name in random.sample(list(losses), len(losses)):
            began = time.process_time()
            for _ in range(steps):
                run(losses[name])
            spent[name] = time.process_time() - began
        if number:  # the first one warms up
            for name, seconds in spent.items():
                found[name].append(seconds / spent["cross_entropy"])
    return {name: statistics.median(each) for name, each in found.items()}


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    random.seed(0)
    rows: dict[str, list[str]] = {name: [] for name in VARIANTS}
    names = []
    for task in tasks():
        for what, run in (("step", task.step), ("loss alone", task.loss_alone)):
            names.append(f"{task.name}: {what}")
            steps = task.steps if what == "step" else 20 * task.steps
            for name, ratio in ratios(run, min(steps, 100)).items():
                rows[name].append(f"{ratio:.2f}")
    print("| | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for name, cells in rows.items():
        print(f"| `{name}` | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
