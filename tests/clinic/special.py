"""Trainings that are more than a network and a loss: adversaries, adapters, fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import nets
from .data import Data
from .faults import faulty_net
from .learner import Learner
from .recipe import Recipe


class Adversaries(Learner):
    """A generator of digits against a judge of them."""

    def __init__(self, recipe: Recipe, data: Data) -> None:
        super().__init__(recipe, nn.Identity(), data)
        self.automatic_optimization = False
        width = recipe.width
        self.generator = nn.Sequential(
            nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, 64), nn.Tanh(),
        )  # fmt: skip
        self.judge = nn.Sequential(
            nn.Linear(64, width), nn.LeakyReLU(0.2), nn.Dropout(recipe.dropout), nn.Linear(width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.judge(x)
        return out

    def criterion(self, out: Tensor, y: Tensor) -> Tensor:
        """Return how far the judge is from calling all real."""
        return functional.binary_cross_entropy_with_logits(out, torch.ones_like(out))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        real = batch[0].tanh()
        both: Any = self.optimizers()
        first, second = both
        fake = self.generator(torch.randn(len(real), 16))
        self.toggle_optimizer(first)
        loss = self.criterion(self.judge(fake), fake)
        first.zero_grad()
        self.manual_backward(loss)
        first.step()
        self.untoggle_optimizer(first)
        self.toggle_optimizer(second)
        answer = self.judge(fake.detach())
        wrong = functional.binary_cross_entropy_with_logits(answer, torch.zeros_like(answer))
        second.zero_grad()
        self.manual_backward(wrong + self.criterion(self.judge(real), real))
        second.step()
        self.untoggle_optimizer(second)
        return loss.detach()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_real", self.judge(batch[0].tanh()).sigmoid().mean())

    def configure_optimizers(self) -> Any:
        lr, betas = self.recipe.lr, (0.5, 0.999)
        return [
            torch.optim.Adam(self.generator.parameters(), lr, betas=betas),
            torch.optim.Adam(self.judge.parameters(), lr, betas=betas),
        ]


class InTurns(Learner):
    """A body and a head, each with an optimizer of its own."""

    def __init__(self, recipe: Recipe, data: Data) -> None:
        super().__init__(recipe, nets.mlp(recipe, data.features, data.outputs), data)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        both: Any = self.optimizers()
        loss = self.criterion(self(x), y)
        for optimizer in both:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in both:
            optimizer.step()
        return loss.detach()

    def configure_optimizers(self) -> Any:
        body, head = list(self.net.parameters())[:-2], list(self.net.parameters())[-2:]
        lr = self.recipe.lr
        return [torch.optim.Adam(body, lr), torch.optim.SGD(head, 20 * lr, momentum=0.9)]


class Adapted(nn.Module):
    """A frozen linear layer, and a thin one beside it that is trained."""

    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base = base.requires_grad_(requires_grad=False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.up(self.down(x))
        return out


def _pretrained(recipe: Recipe, data: Data, *, shifted: bool) -> nn.Sequential:
    """Return a network that has learned the digits, or the digits and three more."""
    net = nets.mlp(recipe.but(dropout=0.0), data.features, data.outputs)
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    y = (data.y + 3 * shifted) % data.outputs
    for i in range(200):
        rows = torch.arange(i * 64, i * 64 + 64) % len(data.x)
        optimizer.zero_grad()
        functional.cross_entropy(net(data.x[rows]), y[rows]).backward()
        optimizer.step()
    return net


def _adapters(recipe: Recipe, data: Data) -> Learner:
    base = _pretrained(recipe, data, shifted=True)
    layers = [Adapted(m) if isinstance(m, nn.Linear) else m for m in base]
    return Learner(recipe, nn.Sequential(*layers), data)


def _frozen_backbone(recipe: Recipe, data: Data) -> Learner:
    """Freeze all but a new head; batch norm and dropout of the backbone in evaluation mode."""
    base = _pretrained(recipe, data, shifted=True)
    body = base[:-1].requires_grad_(requires_grad=False)
    return _Frozen(recipe, nn.Sequential(body, nn.Linear(recipe.width, data.outputs)), data)


class _Frozen(Learner):
    def on_train_epoch_start(self) -> None:
        self.net[0].eval()  # type: ignore[index]


def _gentle(recipe: Recipe, data: Data) -> Learner:
    """Train all of a network on, that knows the task already."""
    return Learner(recipe, _pretrained(recipe, data, shifted=False), data)


def _thawing_norm(recipe: Recipe, data: Data) -> Learner:
    """Freeze the backbone's parameters, and leave its batch norm in training mode."""
    base = _pretrained(recipe, data, shifted=True)
    body = base[:-1].requires_grad_(requires_grad=False)
    net = nn.Sequential(body, nn.Linear(recipe.width, data.outputs))
    return Learner(recipe, faulty_net(net, recipe), data)


LEARNERS: dict[str, Callable[[Recipe, Data], Any]] = {
    "adversaries": Adversaries,
    "in-turns": InTurns,
    "adapters": _adapters,
    "frozen-backbone": _frozen_backbone,
    "gentle": _gentle,
    "thawing-norm": _thawing_norm,
}
STEPS_OF = {"adversaries": 2, "in-turns": 2}
"""Optimizer steps that Lightning counts for a batch, where it is not one."""
