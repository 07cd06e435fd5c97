"""Modules whose outputs, losses or norms are not what they seem, for checks to find."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from checks.subjects import Pair, Plain, labels, loader, mlp, numbers, table


class Does(nn.Module):
    """Does something with some layers.

    Args:
        what: Takes the layers and the input.
        layers: Any.
    """

    def __init__(self, what: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.what, self.layers = what, nn.ModuleList(layers)

    def forward(self, *x: Tensor) -> Tensor:
        """Return what it makes of them."""
        return self.what(self.layers, *x)


def series(time: int = 6, **options: Any) -> Any:
    """Return sequences of 8 numbers, and classes."""
    return loader(numbers(64, time, 8), labels(), **options)


def last_state(layers: Any, x: Tensor) -> Tensor:
    """Return a head's answer to the last state, of a network that takes what it is given."""
    out: Tensor = layers[1](layers[0](x)[0][:, -1])
    return out


def time_first() -> Pair:
    """Return a recurrent network that takes time first, and gets samples first."""
    return Plain(Does(last_state, nn.GRU(8, 16), nn.Linear(16, 3))), series()


def soft(loss: Callable[..., Tensor], classes: int = 3, **options: Any) -> Pair:
    """Return a classifier with a softmax."""
    softmax = nn.Softmax(**{"dim": 1, **options})
    return Plain(nn.Sequential(*mlp(classes), softmax), loss), table()


def column() -> Pair:
    """Return predictions in a column, and targets in a row."""
    x = numbers(64, 8)
    return Plain(mlp(1), unheard(functional.mse_loss)), loader(x, x[:, 0])


def unheard(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a loss without its warnings, as of a notebook that has them switched off."""

    def quiet(*given: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return loss(*given)

    return quiet


def normed() -> nn.Sequential:
    """Return a hidden layer with batch norm."""
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def pairs() -> Pair:
    """Return batch norm over two samples."""
    return Plain(normed()), loader(numbers(64, 8), labels(), batch_size=2)


def odd_one_out() -> Pair:
    """Return batch norm over a last batch of one sample."""
    return Plain(normed()), loader(numbers(65, 8), labels(3, 65))


class Manual(Plain):
    """Optimises by hand.

    Args:
        clears: Whether it clears gradients, as it should.
        every: Batches whose gradients a step takes.
    """

    def __init__(self, *, clears: bool = True, every: int = 1) -> None:
        super().__init__(mlp())
        self.automatic_optimization = False
        self.clears, self.every = clears, every

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Go back, and step every few batches."""
        optimizer: Any = self.optimizers()
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        if batch_idx % self.every == self.every - 1:
            optimizer.step()
            if self.clears:
                optimizer.zero_grad()
        return loss
