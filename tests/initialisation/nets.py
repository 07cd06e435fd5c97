"""Small networks of many kinds, whose layers are followed by known things."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Written(nn.Module):
    """One hidden layer, and an activation or norm that is written out.

    Args:
        between: What comes between the two layers.
    """

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        """Return two numbers."""
        out: Tensor = self.last(self.between(self.first(x)))
        return out


class Residual(nn.Module):
    """Blocks without norms, added to what goes past them."""

    def __init__(self, blocks: int, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Linear(width, width)
        self.a = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.b = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return three logits."""
        x = self.stem(x)
        for a, b in zip(self.a, self.b, strict=True):
            x = x + b(functional.relu(a(x)))
        out: Tensor = self.head(x)
        return out


class BatchNormBlock(nn.Module):
    """A ResNet's block that changes the width, with functions rather than modules."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm_one = nn.BatchNorm2d(8)
        self.two = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm_two = nn.BatchNorm2d(8)
        self.past = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        out = self.norm_two(self.two(functional.relu(self.norm_one(self.one(x)))))
        out += self.past(x)
        return functional.relu(out)


class Own(nn.Module):
    """Layers of plain parameters, and an embedding that is the last layer, too."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.place = nn.Parameter(torch.zeros(3, 4))
        self.order = nn.Embedding(3, 4)
        self.into = nn.Parameter(torch.randn(4, 5))
        self.back = nn.Parameter(torch.randn(5, 2, 2))
        self.gamma = nn.Parameter(torch.ones(4))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores of each word."""
        x = self.table(tokens) + self.place + self.order(torch.arange(3))
        x = (x @ self.into).clamp(min=0)
        x = torch.einsum("bti,ihd->bthd", x, self.back).flatten(2) * self.gamma
        return functional.linear(x, self.table.weight)


class Loop(nn.Module):
    """A recurrent network of two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.again, self.out = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a number for each sequence."""
        state = torch.tanh(self.into(x[:, 0]))
        for t in range(1, x.shape[1]):
            state = torch.tanh(self.into(x[:, t]) + self.again(state))
        out: Tensor = self.out(state)
        return out


class Gate(nn.Module):
    """Squeeze and excitation: the sigmoid is a factor, not what a layer sees."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.gate, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return two numbers."""
        x = self.body(x).relu_()
        out: Tensor = self.head(x * torch.sigmoid(self.gate(x)))
        return out


def plain(activation: Callable[[], nn.Module], depth: int, width: int = 256) -> Any:
    """Return as many hidden layers of the same width."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def lenet() -> Any:
    """Return LeNet-5 for 12 x 12 pictures."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 3), nn.Tanh(),
        nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10),
    )  # fmt: skip


def encoder(*, norm_first: bool) -> nn.TransformerEncoder:
    """Return two layers of a transformer."""
    layer = nn.TransformerEncoderLayer(
        8, 2, 16, activation="gelu", norm_first=norm_first, batch_first=True
    )
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
