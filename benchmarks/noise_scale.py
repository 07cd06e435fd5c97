"""How near ways to estimate the noise scale come to the truth, along a training on digits.

    python benchmarks/noise_scale.py

The truth is computed at every eighth step from the gradient of each of the 1,797 samples, in
float64. Ways: the batch split in 8 parts; 4 micro-batches; pairs of steps so many apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from lightning_diag.measure.noise_estimate import Estimate, noise_scale_of, two_batch_estimate

BATCH = 32
STEPS = 320
WINDOW = 64
APART = (1, 4, 16)
RUNS: list[tuple[str, Callable[[Any], torch.optim.Optimizer]]] = [
    ("SGD, lr 0.1", lambda p: torch.optim.SGD(p, 0.1)),
    ("SGD, lr 0.3", lambda p: torch.optim.SGD(p, 0.3)),
    ("Adam, lr 0.003", lambda p: torch.optim.Adam(p, 0.003)),
    ("Adam, lr 0.01", lambda p: torch.optim.Adam(p, 0.01)),
]


class Trial:
    """One training, and what each way sees of it."""

    def __init__(self, make: Callable[[Any], torch.optim.Optimizer], seed: int) -> None:
        torch.manual_seed(seed)
        x, y = load_digits(return_X_y=True)
        self.x, self.y = torch.tensor(x / 16.0), torch.tensor(y)
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).double()
        self.optimizer = make(self.net.parameters())
        self.truth: list[Estimate] = []
        self.ways: dict[str, list[Estimate]] = {"split": [], "micro-batches": []}
        self.gradients: list[Tensor] = []

    def run(self) -> None:
        """Train."""
        order = torch.empty(0)
        for step in range(STEPS):
            at = step % (len(self.x) // BATCH)
            order = torch.randperm(len(self.x)) if at == 0 else order
            index = order[at * BATCH : (at + 1) * BATCH]
            if step % 8 == 0:
                self.truth.append(self.brute_force())
            for way, parts in (("split", 8), ("micro-batches", 4)):
                self.ways[way].append(self.estimate(index, parts))
            self.gradients.append(self.gradient(index))
            self.optimizer.step()

    def gradient(self, index: Tensor) -> Tensor:
        """Return the gradient of some samples."""
        self.net.zero_grad()
        functional.cross_entropy(self.net(self.x[index]), self.y[index]).backward()
        return torch.cat([p.grad.flatten() for p in self.net.parameters() if p.grad is not None])

    def estimate(self, index: Tensor, parts: int) -> Estimate:
        """Return both parts of the noise scale from parts of one batch."""
        found = torch.stack([self.gradient(part) for part in index.chunk(parts)])
        small, big = found.square().sum(1).mean(), found.mean(0).square().sum()
        return two_batch_estimate(float(small), float(big), len(index) // parts, parts)

    def brute_force(self) -> Estimate:
        """Return both parts from every sample's gradient."""

        def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return functional.cross_entropy(functional_call(self.net, weights, (x[None],)), y[None])

        weights = {name: p.detach() for name, p in self.net.named_parameters()}
        found = vmap(grad(loss), (None, 0, 0))(weights, self.x, self.y)
        flat = torch.cat([part.flatten(1) for part in found.values()], 1)
        trace = float((flat - flat.mean(0)).square().sum() / (len(flat) - 1))
        return Estimate(trace, float(flat.mean(0).square().sum()) - trace / len(flat))

    def pairs(self, apart: int, first: int, last: int) -> list[Estimate]:
        """Return estimates from steps so many apart."""
        found = []
        for one, other in zip(self.gradients[first:], self.gradients[first + apart : last]):  # noqa: B905
            product = float(one @ other)
            squares = float(one @ one) + float(other @ other)
            found.append(Estimate((squares - 2 * product) * BATCH / 2, product))
        return found


def main() -> None:
    """Print a row for every 64 steps of each training."""
    print("| training | steps | truth | split | micro-batches |", *(f"{n} apart |" for n in APART))
    print("|" + "---|" * (5 + len(APART)))
    for seed, (name, make) in enumerate(RUNS):
        trial = Trial(make, seed)
        trial.run()
        for first in range(0, STEPS, WINDOW):
            last = first + WINDOW
            truth = trial.truth[first // 8 : last // 8]
            scale = math.fsum(t.trace for t in truth) / math.fsum(t.signal for t in truth)
            ways = [way[first:last] for way in trial.ways.values()]
            ways += [trial.pairs(apart, first, last) for apart in APART]
            cells = [shown(way) for way in ways]
            print(f"| {name} | {first}-{last - 1} | {scale:.0f} |", " | ".join(cells), "|")


def shown(estimates: list[Estimate]) -> str:
    """Return the noise scale and its interval."""
    found = noise_scale_of(estimates)
    if found is None or found.samples is None:
        return "none"
    high = "∞" if found.high == math.inf else f"{found.high:.0f}"
    return f"{found.samples:.0f} ({found.low:.0f}-{high})"


if __name__ == "__main__":
    main()
