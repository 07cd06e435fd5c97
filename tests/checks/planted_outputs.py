"""Faults of outputs, losses and norms, planted in drawn trainings of the clinic."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from types import MethodType
from typing import Any

from clinic import bases
from clinic.recipe import Recipe
from clinic.train import loaders, prepare
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from checks.subjects import Pair

_MIXES: list[Callable[[Tensor], Tensor]] = [
    lambda x: x - x.mean(0),
    lambda x: x.softmax(0),
    lambda x: functional.normalize(x, dim=0),
    lambda x: x.transpose(0, 1).reshape(x.shape),
    lambda x: x.reshape(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1),
    lambda x: x.cumsum(0) / len(x),
]
"""Ways to take samples for something else."""


class _Calls(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _pair(recipe: Recipe) -> Pair:
    learner, data = prepare(recipe)
    return learner, loaders(recipe, data)


def _mixed(rng: Random) -> Pair:
    """Mix samples behind a layer, or give samples first to what takes time first."""
    if rng.random() < 0.3:
        learner, data = _pair(bases.sequences(rng))
        for module in learner.net.modules():
            if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
                module.batch_first = False
        return learner, data
    learner, data = _pair(bases.anything(rng))
    layers = [
        name
        for name, module in learner.net.named_modules()
        if name and "attn" not in name and isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    owner, _, name = rng.choice(layers).rpartition(".")
    module = learner.net.get_submodule(owner)
    setattr(module, name, nn.Sequential(getattr(module, name), _Calls(rng.choice(_MIXES))))
    return learner, data


def _tiny(rng: Random) -> Pair:
    return _pair(bases.table(rng, norm="bn", batch_size=rng.choice([2, 3, 4])))


def _one_left(rng: Random) -> Pair:
    recipe = bases.table(rng, norm="bn", batch_size=rng.choice([4, 8, 16, 32]))
    learner, data = prepare(recipe)
    count = (len(data.x) - 1) // recipe.batch_size * recipe.batch_size + 1
    samples = TensorDataset(data.x[:count], data.y[:count])
    return learner, DataLoader(samples, recipe.batch_size, shuffle=True)


def _output(rng: Random) -> Pair:
    table, values = bases.table, bases.regression
    kinds: list[Callable[[], Recipe]] = [
        lambda: table(rng).with_faults(out_softmax=1.0),
        lambda: table(rng).with_faults(out_relu=1.0),
        lambda: table(rng, data="cancer").with_faults(out_sigmoid=1.0),
        lambda: table(rng).with_faults(probabilities_as_logs=1.0),
        lambda: table(rng, loss="nll_loss"),
        lambda: values(rng).with_faults(out_sigmoid=1.0),
    ]
    return _pair(rng.choice(kinds)())


def _loss(rng: Random) -> Pair:
    classes = rng.choice(["wine", "blobs", "mixed"])
    kinds: list[Callable[[], Recipe]] = [
        lambda: bases.regression(rng).with_faults(broadcast=1.0),
        lambda: bases.table(rng, optimizer=rng.choice(["sgd", "momentum"])).with_faults(sum=1.0),
        lambda: bases.table(rng, data=classes).with_faults(square_classes=1.0),
    ]
    return _pair(rng.choice(kinds)())


def _heaped(rng: Random) -> Pair:
    recipe = bases.table(rng, net="in-turns", data="digits", optimizer="adam")

    def step(self: Any, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.manual_backward(self.criterion(self(x), y))
        for optimizer in self.optimizers():
            optimizer.step()

    learner, data = _pair(recipe)
    learner.training_step = MethodType(step, learner)
    return learner, data


PLANTED: dict[str, Callable[[Random], Pair]] = {
    "batch-mixing": _mixed,
    "batch-norm-gap": _tiny,
    "last-batch-of-one": _one_left,
    "output-activation-mismatch": _output,
    "loss-mismatch": _loss,
    "uncleared-gradient": _heaped,
}
"""By the check's code."""
