"""How initial weights keep signal and gradient through deep networks, and what `init_` costs.

python benchmarks/initial_weights.py
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_diag import init_
from lightning_diag.initialisation.gains import activation_gain

WIDTH = 256
SEEDS = 3
ACTIVATIONS: dict[str, tuple[Callable[[], nn.Module], float | None]] = {
    "relu": (nn.ReLU, None),
    "leaky_relu": (nn.LeakyReLU, None),
    "elu": (nn.ELU, math.sqrt(2)),
    "selu": (nn.SELU, 0.75),
    "gelu": (nn.GELU, math.sqrt(2)),
    "silu": (nn.SiLU, math.sqrt(2)),
    "mish": (nn.Mish, math.sqrt(2)),
    "hardswish": (nn.Hardswish, math.sqrt(2)),
    "tanh": (nn.Tanh, 5 / 3),
    "softsign": (nn.Softsign, None),
    "softplus": (nn.Softplus, None),
    "sigmoid": (nn.Sigmoid, 1.0),
}
"""Activation, and the gain that torch has for it, or He's where torch has none, if it differs."""


def chain(activation: Callable[[], nn.Module], depth: int, gain: float | None) -> Any:
    """Return a network whose weights have a gain; `init_`'s if none is given."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(WIDTH, WIDTH), activation()]
    net = nn.Sequential(*layers, nn.Linear(WIDTH, 10))
    init_(net)
    for layer in net:
        if gain is not None and isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=gain / math.sqrt(WIDTH))
    return net


def change(net: Any, depth: int) -> tuple[float, float]:
    """Return by what mean squares change a layer: of layers' outputs, and of gradients back."""
    x, seen = torch.randn(64, WIDTH), list[Tensor]()
    for layer in net:
        x = layer(x)
        if isinstance(layer, nn.Linear):
            x.retain_grad()
            seen.append(x)
    x.backward(torch.randn_like(x))
    sizes = [float(each.detach().square().mean()) for each in seen[:depth]]
    grads = [float(each.grad.square().mean()) for each in seen[:depth] if each.grad is not None]
    root = 1 / (depth - 1)
    return (sizes[-1] / sizes[0]) ** root, (grads[0] / grads[-1]) ** root


def row(activation: Callable[[], nn.Module], gain: float | None) -> list[str]:
    """Return the mean changes through 10 and 50 layers."""
    cells = []
    for depth in (10, 50):
        found = []
        for seed in range(SEEDS):
            torch.manual_seed(seed)
            found.append(change(chain(activation, depth, gain), depth))
        forward, backward = (sum(each) / SEEDS for each in zip(*found, strict=True))
        cells.append(f"{forward:.2f}, {backward:.2f}")
    return cells


def main() -> None:
    """Print a table of gains, and the time that `init_` takes."""
    print("| activation | gain | 10 layers | 50 layers | other gain | 10 layers | 50 layers |")
    print("|---|---|---|---|---|---|---|")
    for name, (activation, other) in ACTIVATIONS.items():
        cells = [f"`{name}`", f"{activation_gain(name):.3g}", *row(activation, None)]
        cells += ["", "", ""] if other is None else [f"{other:.3g}", *row(activation, other)]
        print("|", " | ".join(cells), "|")
    net, x = chain(nn.ReLU, 20, None), torch.randn(64, WIDTH)
    for scheme in ("auto", "orthogonal", "lsuv"):
        start = time.perf_counter()
        init_(net, x, scheme=scheme)
        print(f"{scheme}: {1000 * (time.perf_counter() - start):.0f} ms for 20 layers of {WIDTH}")


if __name__ == "__main__":
    main()
