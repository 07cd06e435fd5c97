"""Sick trainings of data, start and fit, each with what its finding says to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional, init
from torch.utils.data import WeightedRandomSampler

from lightning_diag import init_
from rules.remedies import Module, Remedy, Training, chain, sgd


def constant(weight: Tensor) -> None:
    """Give all units the same weights."""
    init.constant_(weight, 0.05)


def tiny(weight: Tensor) -> None:
    """Draw weights far too small."""
    init.normal_(weight, std=0.005)


def drawn(net: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Return what makes the same net with other initial weights."""

    def make() -> nn.Module:
        module = net()
        init_(module, torch.randn(64, 64))
        return module

    return make


def same(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Leave the data as they are."""
    return x, y


def ids(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return twenty ids, hashed from the pictures."""
    return (x.abs().sum(1) * 1000).long() % 20, y


def rare(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Tell the digit 8 from all others, with a third of its samples."""
    kept = (y != 8) | (torch.arange(len(y)) % 10 < 3)
    return x[kept], (y[kept] == 8).long()


def evenly(y: Tensor) -> WeightedRandomSampler:
    """Return a sampler that draws all classes equally often."""
    return WeightedRandomSampler((1 / torch.bincount(y)[y]).tolist(), len(y))


def far(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return targets with a large offset."""
    return x, 1000 + 100 * functional.one_hot(y, 10).float()


def scaled(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same targets, standardised."""
    return x, torch.tensor(StandardScaler().fit_transform(far(x, y)[1].numpy()))


def embedding(rows: int, *, drawn: bool = True) -> Callable[[], nn.Module]:
    """Return what makes a net on an embedding."""

    def make() -> nn.Module:
        table = nn.Embedding(rows, 16)
        if not drawn:
            init.normal_(table.weight, mean=1.0, std=0.01)
        else:
            init.normal_(table.weight)
        return nn.Sequential(table, nn.Linear(16, 10))

    return make


def dropped(p: float, *, training: bool = True, width: int = 32) -> Callable[[], nn.Module]:
    """Return what makes a net with dropout, in the mode that is given."""

    def make() -> nn.Module:
        net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Dropout(p), nn.Linear(width, 10))
        return net.train(training)

    return make


def certain(*, mended: bool) -> Callable[[], nn.Module]:
    """Return what makes a net that is sure of itself from the start, or was mended."""

    def make() -> nn.Module:
        net: Any = chain()()
        with torch.no_grad():
            net[-1].weight.mul_(20)
            net[-1].bias.copy_(torch.linspace(-9, 9, 10))
        if mended:
            init.normal_(net[-1].weight, std=0.01)
            init.zeros_(net[-1].bias)
        return net  # type: ignore[no-any-return]

    return make


def centred() -> nn.Module:
    """Return a net whose sigmoids have batch norm behind them."""
    hidden = [
        module
        for inputs in (64, 32)
        for module in (nn.Linear(inputs, 32), nn.Sigmoid(), nn.BatchNorm1d(32))
    ]
    return nn.Sequential(*hidden, nn.Linear(32, 10))


class InTraining(Module):
    """Puts its network into training mode at each epoch."""

    def on_train_epoch_start(self) -> None:
        """Mend the mode."""
        self.net.train()


EQUAL = Training(net=chain(init=constant), steps=60)
WEAK = Training(net=chain(nn.Tanh, 6, init=tiny), optimizer=sgd(0.01), steps=120)
OFF = Training(net=dropped(0.3, training=False), steps=60)
REGRESSED = Training(data=far, loss=functional.mse_loss, optimizer=sgd(1e-4), steps=120)
RARE = Training(data=rare, optimizer=sgd(0.001), steps=180, batch_size=96, samples=1400)
FEW = Training(
    net=dropped(0.0, width=256),
    held=same,
    samples=32,
    batch_size=32,
    steps=300,
    optimizer=sgd(0.1),
    options={"check_val_every_n_epoch": 10},
)
DECAYED = Training(optimizer=sgd(0.05, 0.0, weight_decay=0.05), steps=400)
GATES = Training(net=chain(nn.Sigmoid, 2), optimizer=sgd(0.003), steps=230)

TREATMENTS: Sequence[Remedy] = (
    Remedy(
        "symmetric-init",
        "torch.nn.init.kaiming_normal_",
        EQUAL,
        replace(EQUAL, net=chain(init=init.kaiming_normal_)),
    ),
    Remedy(
        "symmetric-init",
        "torch.nn.init.xavier_uniform_",
        EQUAL,
        replace(EQUAL, net=chain(init=init.xavier_uniform_)),
    ),
    *(
        Remedy(code, "lightning_diag.init_", sick, replace(sick, net=drawn(sick.net)))
        for code, sick in (
            ("symmetric-init", EQUAL),
            ("init-scale", WEAK),
            ("collapsed-activation", WEAK),
        )
    ),
    Remedy(
        "init-scale",
        "torch.nn.init.xavier_normal_",
        WEAK,
        replace(WEAK, net=chain(nn.Tanh, 6, init=init.xavier_normal_)),
    ),
    Remedy(
        "init-scale",
        "torch.nn.init.kaiming_normal_",
        replace(WEAK, net=chain(nn.ReLU, 6, init=tiny)),
        replace(WEAK, net=chain(nn.ReLU, 6, init=init.kaiming_normal_)),
    ),
    Remedy(
        "collapsed-activation",
        "torch.nn.init.xavier_normal_",
        WEAK,
        replace(WEAK, net=chain(nn.Tanh, 6, init=init.xavier_normal_)),
    ),
    Remedy(
        "collapsed-activation",
        "torch.nn.init.kaiming_normal_",
        replace(WEAK, net=chain(nn.ReLU, 6, init=tiny)),
        replace(WEAK, net=chain(nn.ReLU, 6, init=init.kaiming_normal_)),
    ),
    Remedy(
        "collapsed-activation",
        "torch.nn.BatchNorm1d",
        WEAK,
        replace(WEAK, net=chain(nn.Tanh, 6, init=tiny, norm=nn.BatchNorm1d)),
    ),
    Remedy(
        "collapsed-activation",
        "torch.nn.LayerNorm",
        WEAK,
        replace(WEAK, net=chain(nn.Tanh, 6, init=tiny, norm=nn.LayerNorm)),
    ),
    Remedy("not-zero-centred", "torch.nn.Tanh", GATES, replace(GATES, net=chain(nn.Tanh, 2))),
    Remedy("not-zero-centred", "torch.nn.GELU", GATES, replace(GATES, net=chain(nn.GELU, 2))),
    Remedy("not-zero-centred", "torch.nn.ReLU", GATES, replace(GATES, net=chain(nn.ReLU, 2))),
    Remedy(
        "not-zero-centred",
        "torch.nn.BatchNorm1d",
        GATES,
        replace(GATES, net=centred),
    ),
    Remedy(
        "eval-mode-with-trainable-parameters",
        "on_train_epoch_start",
        OFF,
        replace(OFF, module=InTraining),
    ),
    Remedy("eval-mode-with-trainable-parameters", ".train()", OFF, replace(OFF, net=dropped(0.3))),
    Remedy(
        "dead-embedding",
        "torch.nn.Embedding",
        Training(net=embedding(300), data=ids, steps=60),
        Training(net=embedding(20), data=ids, steps=60),
    ),
    Remedy(
        "embedding-collapse",
        "torch.nn.init.normal_",
        Training(net=embedding(20, drawn=False), data=ids, optimizer=sgd(1e-3), steps=60),
        Training(net=embedding(20), data=ids, optimizer=sgd(1e-3), steps=60),
    ),
    Remedy(
        "unscaled-target",
        "sklearn.preprocessing.StandardScaler",
        REGRESSED,
        replace(REGRESSED, data=scaled),
    ),
    Remedy(
        "class-imbalance",
        "torch.utils.data.WeightedRandomSampler",
        RARE,
        replace(RARE, sampler=evenly),
    ),
    Remedy(
        "initial-loss",
        "torch.nn.init.normal_ and torch.nn.init.zeros_",
        Training(net=certain(mended=False), steps=20),
        Training(net=certain(mended=True), steps=20),
    ),
    Remedy("overfitting", "get or augment data", FEW, replace(FEW, samples=1200)),
    Remedy(
        "over-regularisation",
        "Divide the weight decay",
        DECAYED,
        replace(DECAYED, optimizer=sgd(0.05, 0.0, weight_decay=0.005)),
    ),
)
