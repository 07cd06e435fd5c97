"""Sick trainings that need more steps, or more than data and a network, each with its remedy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import init

from rules.comparing import hard_triplets, semi_hard_triplets
from rules.remedies import Module, Remedy, Training, adam, chain, sgd
from rules.treatments import dropped, same

CLIPPED = {"gradient_clip_val": 1.0}


class OneBadBatch(Module):
    """Gets one batch that is too loud, and whose labels belong to others."""

    size = 3.0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch, of which one is broken."""
        x, y = batch
        if self.global_step == 150:
            x, y = self.size * x, y.roll(1)
        return super().training_step((x, y), batch_idx)


class OneLoudBatch(OneBadBatch):
    """The same, louder."""

    size = 20.0


def louder(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return inputs of five times the size."""
    return 5 * x, y


def blurred(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return inputs under twice as much noise."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return x + 2 * noise, y


def partly_wrong(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Give three in ten samples any label."""
    generator = torch.Generator().manual_seed(0)
    is_wrong = torch.rand(len(y), generator=generator) < 0.3
    return x, torch.where(is_wrong, torch.randint(0, 10, y.shape, generator=generator), y)


def convolution(momentum: float) -> Callable[[], nn.Module]:
    """Return what makes a small convolutional net with batch norm."""

    def make() -> nn.Module:
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8, momentum=momentum), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10),
        )  # fmt: skip

    return make


def dropping(p: float) -> Callable[[], nn.Module]:
    """Return what makes a net with dropout behind each of three layers."""

    def make() -> nn.Module:
        layers: list[nn.Module] = []
        for inputs in (64, 64, 64):
            linear = nn.Linear(inputs, 64)
            init.xavier_normal_(linear.weight)
            layers += [linear, nn.LeakyReLU(), nn.Dropout(p)]
        return nn.Sequential(*layers, nn.Linear(64, 10))

    return make


def cosine(lr: float, steps: int) -> Callable[[Any], Any]:
    """Return what makes an SGD whose learning rate falls to zero."""

    def make(parameters: Any) -> Any:
        optimizer = torch.optim.SGD(parameters, lr, 0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    return make


def groups(width: int) -> nn.Module:
    """Return a group norm of four groups."""
    return nn.GroupNorm(4, width)


def memories(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return sequences of noise, told apart by the signs of the two numbers they begin with."""
    steps = torch.randn((len(x), 24, 2), generator=torch.Generator().manual_seed(0))
    steps[:, 1:] *= 0.1
    return steps, (steps[:, 0, 0] > 0).long() + 2 * (steps[:, 0, 1] > 0).long()


class Remembering(nn.Module):
    """A plain recurrent net whose recurrent weights are orthogonal, times a gain."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.into, self.again = nn.Linear(2, 32), nn.Linear(32, 32, bias=False)
        init.orthogonal_(self.again.weight, gain)
        self.act, self.head = nn.Tanh(), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Answer after the last step."""
        state = x.new_zeros(len(x), 32)
        for step in x.unbind(1):
            state = self.act(self.into(step) + self.again(state))
        out: Tensor = self.head(state)
        return out


class Gated(nn.Module):
    """The same task, by gates."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.cells, self.head = kind(2, 32, batch_first=True), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Answer after the last step."""
        out: Tensor = self.head(self.cells(x)[0][:, -1])
        return out


FORGETTING = Training(net=lambda: Remembering(0.4), data=memories, optimizer=adam(2e-3), steps=200)
SLOW_STATISTICS = Training(net=convolution(0.0005), data=louder, steps=300)
TWO_SAMPLES = Training(
    net=chain(norm=nn.BatchNorm1d), batch_size=2, steps=400, optimizer=sgd(0.01, 0.0)
)
THROWN_BACK = Training(module=OneBadBatch, optimizer=sgd(0.2), steps=240)
SPIKED = Training(net=chain(nn.LeakyReLU), module=OneLoudBatch, steps=240)
BOUNCING = Training(
    net=chain(nn.Tanh, 2, 64, init=init.xavier_normal_),
    data=blurred,
    held=blurred,
    optimizer=sgd(0.66),
    steps=500,
    batch_size=64,
    options={"check_val_every_n_epoch": 3},
)
PULLED_TOGETHER = Training(
    net=chain(nn.LeakyReLU, 4), loss=hard_triplets, optimizer=sgd(0.3), steps=150, seed=1
)
SINGLE = Training(batch_size=1, optimizer=sgd(0.1, 0.0), steps=700)
SWITCHED_OFF = Training(
    net=dropping(0.9),
    held=same,
    steps=500,
    batch_size=32,
    optimizer=adam(4.5e-4),
    options={"check_val_every_n_epoch": 2},
)
BY_HEART = Training(
    net=dropped(0.0, width=256),
    data=partly_wrong,
    held=same,
    samples=960,
    steps=600,
    optimizer=sgd(0.1),
    options={"check_val_every_n_epoch": 2},
)

QUICK: Sequence[Remedy] = (
    Remedy(
        "batch-norm-gap",
        "torch.nn.BatchNorm2d",
        SLOW_STATISTICS,
        replace(SLOW_STATISTICS, net=convolution(0.1)),
    ),
    Remedy(
        "batch-norm-gap", "torch.nn.GroupNorm", TWO_SAMPLES,
        replace(TWO_SAMPLES, net=chain(norm=groups)),
    ),
    Remedy(
        "diverging-loss",
        "Trainer(gradient_clip_val=1.0)",
        THROWN_BACK,
        replace(THROWN_BACK, options=CLIPPED),
    ),
    Remedy(
        "vanishing-gradient",
        "torch.nn.LSTM",
        FORGETTING,
        replace(FORGETTING, net=lambda: Gated(nn.LSTM)),
    ),
    Remedy(
        "vanishing-gradient",
        "torch.nn.GRU",
        FORGETTING,
        replace(FORGETTING, net=lambda: Gated(nn.GRU)),
    ),
    Remedy(
        "vanishing-gradient",
        "torch.nn.init.orthogonal_",
        FORGETTING,
        replace(FORGETTING, net=lambda: Remembering(1.0)),
    ),
    Remedy(
        "embedding-collapse",
        "semi-hard negatives and torch.nn.functional.normalize",
        PULLED_TOGETHER,
        replace(PULLED_TOGETHER, loss=semi_hard_triplets),
    ),
    Remedy(
        "loss-spike", "Trainer(gradient_clip_val=1.0)", SPIKED, replace(SPIKED, options=CLIPPED)
    ),
)  # fmt: skip
SLOW: Sequence[Remedy] = (
    Remedy(
        "loss-oscillation",
        "torch.optim.lr_scheduler.CosineAnnealingLR",
        BOUNCING,
        replace(BOUNCING, optimizer=cosine(0.66, 500)),
    ),
    Remedy(
        "noisy-gradient",
        "Trainer(accumulate_grad_batches=8)",
        SINGLE,
        replace(SINGLE, options={"accumulate_grad_batches": 8}),
    ),
    Remedy(
        "over-regularisation",
        "torch.nn.Dropout",
        SWITCHED_OFF,
        replace(SWITCHED_OFF, net=dropping(0.3)),
    ),
    Remedy(
        "overfitting",
        "torch.nn.Dropout",
        BY_HEART,
        replace(BY_HEART, net=dropped(0.8, width=256)),
    ),
)
