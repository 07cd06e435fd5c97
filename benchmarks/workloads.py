"""What is trained: an MLP, a ResNet with batch norm and a transformer, on data held in memory.

Every activation is a module of its own and nothing works in place, so that tools which see modules
only watch as much as tools which see functions too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional

Size = Literal["tiny", "cpu", "cuda"]


class Mlp(nn.Module):
    """Three hidden layers with ReLU: ``(batch, inputs) -> (batch, 10)``."""

    def __init__(self, *, inputs: int, width: int) -> None:
        super().__init__()
        sizes = [inputs, width, width, width]
        hidden = [
            layer
            for before, after in pairwise(sizes)
            for layer in (nn.Linear(before, after), nn.ReLU())
        ]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Return one score for each class."""
        return cast("Tensor", self.layers(x))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a way around them."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.relu2 = nn.ReLU()
        self.around: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.around = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's feature maps."""
        out = self.relu1(self.norm1(self.conv1(x)))
        return cast("Tensor", self.relu2(self.norm2(self.conv2(out)) + self.around(x)))


class ResNet(nn.Module):
    """A ResNet for small images (He et al. 2015, section 4.2), two blocks for each width.

    Shape: ``(batch, 3, height, width) -> (batch, 10)``.
    """

    def __init__(self, *, widths: tuple[int, ...]) -> None:
        super().__init__()
        first = widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU()
        )
        blocks: list[nn.Module] = []
        before = first
        for stage, width in enumerate(widths):
            blocks += [
                ResidualBlock(before, width, 1 if stage == 0 else 2),
                ResidualBlock(width, width, 1),
            ]
            before = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return one score for each class."""
        return cast("Tensor", self.head(self.blocks(self.stem(x)).mean((2, 3))))


class TransformerBlock(nn.Module):
    """Causal self-attention and two linear layers, normalised first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.gelu = nn.GELU()
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(batch, tokens, width)``, as it came in."""
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return cast("Tensor", x + self.down(self.gelu(self.up(self.norm2(x)))))


class Transformer(nn.Module):
    """A language model on 256 symbols: ``(batch, tokens) -> (batch * tokens, 256)``."""

    def __init__(self, *, width: int, heads: int, layers: int, tokens: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 256)

    def forward(self, x: Tensor) -> Tensor:
        """Return one score for each symbol that may come next."""
        hidden = self.blocks(self.embedding(x) + self.position)
        return cast("Tensor", self.head(self.norm(hidden)).flatten(0, 1))


class Task(LightningModule):
    """Train a net to classify, and log its loss, as most projects do."""

    def __init__(self, net: nn.Module, optimizer: Callable[..., torch.optim.Optimizer]) -> None:
        super().__init__()
        self.net = net
        self._optimizer = optimizer

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the cross-entropy."""
        x, target = batch
        loss = functional.cross_entropy(self.net(x), target.flatten())
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the workload's optimizer."""
        return self._optimizer(self.parameters())


@dataclass(frozen=True)
class Workload:
    """One net with its data and its optimizer."""

    title: str
    """What it is, for the table."""
    net: Callable[[], nn.Module]
    """Builds the net."""
    batch: Callable[[], tuple[Tensor, Tensor]]
    """Draws inputs and targets."""
    optimizer: Callable[..., torch.optim.Optimizer]
    """Builds the optimizer from the parameters."""
    precision: Any = "32-true"
    """The Trainer's precision."""
    more_rounds: int = 1
    """Factor on the rounds: short steps need more of them."""

    def task(self, seed: int) -> Task:
        """Build the module; the same seed gives the same weights."""
        torch.manual_seed(seed)
        return Task(self.net(), self.optimizer)

    def batches(self, seed: int, count: int, device: str) -> list[tuple[Tensor, Tensor]]:
        """Draw the batches on the host, so that they do not depend on the device."""
        torch.manual_seed(seed)
        drawn = [self.batch() for _ in range(count)]
        return [(x.to(device), target.to(device)) for x, target in drawn]


def _sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9, weight_decay=5e-4)


def _adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=3e-4)


def _mlp(batch: int, inputs: int, width: int, precision: str = "32-true") -> Workload:
    return Workload(
        title=f"MLP: 4 linear layers, width {width}, batch {batch}",
        net=lambda: Mlp(inputs=inputs, width=width),
        batch=lambda: (torch.randn(batch, inputs), torch.randint(10, (batch,))),
        optimizer=_adamw,
        precision=precision,
        more_rounds=5,
    )


def _resnet(batch: int, side: int, widths: tuple[int, ...], precision: str = "32-true") -> Workload:
    return Workload(
        title=f"ResNet-{4 * len(widths) + 2}: widths {widths}, batch {batch}, {side}x{side}",
        net=lambda: ResNet(widths=widths),
        batch=lambda: (torch.randn(batch, 3, side, side), torch.randint(10, (batch,))),
        optimizer=_sgd,
        precision=precision,
    )


def _transformer(
    batch: int, tokens: int, width: int, layers: int, precision: str = "32-true"
) -> Workload:
    heads = max(1, width // 64)
    return Workload(
        title=f"Transformer: {layers} blocks, width {width}, batch {batch}, {tokens} tokens",
        net=lambda: Transformer(width=width, heads=heads, layers=layers, tokens=tokens),
        batch=lambda: (
            torch.randint(256, (batch, tokens)),
            torch.randint(256, (batch, tokens)),
        ),
        optimizer=_adamw,
        precision=precision,
    )


WORKLOADS: dict[Size, dict[str, Workload]] = {
    "tiny": {
        "mlp": _mlp(8, 8, 8),
        "resnet": _resnet(2, 8, (4, 8)),
        "transformer": _transformer(2, 4, 8, 1),
    },
    "cpu": {
        "mlp": _mlp(128, 256, 384),
        "resnet": _resnet(24, 32, (16, 32, 64)),
        "transformer": _transformer(8, 64, 128, 4),
    },
    "cuda": {
        "mlp": _mlp(8192, 1024, 4096, "bf16-mixed"),
        "resnet": _resnet(256, 48, (64, 128, 256, 512), "bf16-mixed"),
        "transformer": _transformer(24, 512, 768, 8, "bf16-mixed"),
    },
}
"""By size and name. `cpu` is for two threads, `cuda` for all variants at once on 80 GB."""
