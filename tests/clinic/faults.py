"""What can be wrong with data and networks; what is wrong with a step is in `learner.py`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from .data import Data
from .recipe import Recipe

# Data -----------------------------------------------------------------------------------------


def _scale(data: Data, amount: float, _: torch.Generator) -> Data:
    return data._replace(x=data.x * amount, held_x=data.held_x * amount)


def _offset(data: Data, amount: float, _: torch.Generator) -> Data:
    return data._replace(x=data.x + amount, held_x=data.held_x + amount)


def _mixed_units(data: Data, amount: float, generator: torch.Generator) -> Data:
    """Some features in millimetres, others in kilometres: `amount` decades apart."""
    decades = (torch.rand(data.x.shape[-1], generator=generator) - 0.3) * amount
    return data._replace(x=data.x * 10**decades, held_x=data.held_x * 10**decades)


def _nan_input(data: Data, amount: float, generator: torch.Generator) -> Data:
    x = data.x.clone()
    rows = torch.randperm(len(x), generator=generator)[: max(1, int(amount * len(x)))]
    x[rows, 0] = torch.nan
    return data._replace(x=x)


def _blank(data: Data, amount: float, _: torch.Generator) -> Data:
    return data._replace(x=torch.full_like(data.x, amount), held_x=data.held_x * 0 + amount)


def _target_scale(data: Data, amount: float, _: torch.Generator) -> Data:
    return data._replace(y=data.y * amount, held_y=data.held_y * amount)


def _target_offset(data: Data, amount: float, _: torch.Generator) -> Data:
    return data._replace(y=data.y + amount, held_y=data.held_y + amount)


def _shuffled_labels(data: Data, amount: float, generator: torch.Generator) -> Data:
    """Give a share of the samples the targets of others."""
    y = data.y.clone()
    rows = torch.randperm(len(y), generator=generator)[: int(amount * len(y))]
    y[rows] = y[rows[torch.randperm(len(rows), generator=generator)]]
    return data._replace(y=y)


def _rare_classes(data: Data, amount: float, generator: torch.Generator) -> Data:
    """Keep a share of the samples of every class but the first."""
    keep = (data.y == 0) | (torch.rand(len(data.y), generator=generator) < amount)
    first = torch.nonzero(data.y == 0)[:, 0]
    rows = torch.cat([torch.nonzero(keep)[:, 0], first.repeat(3)])
    return data._replace(x=data.x[rows], y=data.y[rows])


def _validation_scale(data: Data, amount: float, _: torch.Generator) -> Data:
    return data._replace(held_x=data.held_x * amount)


def _validation_offset(data: Data, amount: float, _: torch.Generator) -> Data:
    return data._replace(held_x=data.held_x + amount)


def _clamped_words(data: Data, amount: float, _: torch.Generator) -> Data:
    """Words from number `amount` on are all one word."""
    return data._replace(x=data.x.clamp(max=int(amount)), held_x=data.held_x.clamp(max=int(amount)))


DATA_FAULTS: dict[str, Callable[[Data, float, torch.Generator], Data]] = {
    "scale": _scale,
    "offset": _offset,
    "mixed_units": _mixed_units,
    "nan_input": _nan_input,
    "blank": _blank,
    "target_scale": _target_scale,
    "target_offset": _target_offset,
    "shuffled_labels": _shuffled_labels,
    "rare_classes": _rare_classes,
    "validation_scale": _validation_scale,
    "validation_offset": _validation_offset,
    "clamped_words": _clamped_words,
}


class SlowData(Dataset[Any]):
    """A data set that takes its time."""

    def __init__(self, data: Dataset[Any], seconds: float) -> None:
        self.data, self.seconds = data, seconds

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]  # all data sets here have a length

    def __getitem__(self, index: int) -> Any:
        time.sleep(self.seconds)
        return self.data[index]


# Networks -------------------------------------------------------------------------------------


class Cut(nn.Module):
    """Lets numbers through and no gradients."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


class Rounded(nn.Module):
    """A step function: its gradient is zero everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.round(x)


class Logarithm(nn.Module):
    """Minus infinity wherever its input is not above zero."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(torch.relu(x))


def linear_layers(net: nn.Module) -> list[Any]:
    """Return linear and convolution layers, as registered."""
    return [m for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]


def _constant_weights(net: nn.Module, amount: float) -> nn.Module:
    for parameter in net.parameters():
        if parameter.dim() >= 2:
            nn.init.constant_(parameter, amount)
        else:
            nn.init.zeros_(parameter)
    return net


def _weight_gain(net: nn.Module, amount: float) -> nn.Module:
    for layer in linear_layers(net):
        layer.weight.data.mul_(amount)
    return net


def _last_mean(net: nn.Module, amount: float) -> nn.Module:
    """Draw the last layer from N(amount, 10)."""
    nn.init.normal_(linear_layers(net)[-1].weight, amount, 10.0)
    return net


def _last_weights(net: nn.Module, amount: float) -> nn.Module:
    """Draw the last layer from N(0, amount)."""
    nn.init.normal_(linear_layers(net)[-1].weight, std=amount)
    return net


def _output_bias(net: nn.Module, amount: float) -> nn.Module:
    linear_layers(net)[-1].bias.data[0] += amount
    return net


def _hidden_bias(net: nn.Module, amount: float) -> nn.Module:
    for layer in linear_layers(net)[:-1]:
        nn.init.constant_(layer.bias, amount)
    return net


def _inserted(net: nn.Module, module: nn.Module, depth: float) -> nn.Module:
    """Put a module behind the hidden layer at a share of the depth."""
    assert isinstance(net, nn.Sequential)
    layers = list(net)
    hidden = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)][1:]
    layers.insert(hidden[int(depth * len(hidden) - 1e-9)], module)
    return nn.Sequential(*layers)


def _batch_norm_momentum(net: nn.Module, amount: float) -> nn.Module:
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = amount
    return net


def _alike_embedding(net: nn.Module, amount: float) -> nn.Module:
    """Give all rows one direction: what differs is `amount` of what they share."""
    weight = next(m for m in net.modules() if isinstance(m, nn.Embedding)).weight.data
    weight.mul_(amount).add_(weight[0].clone() / amount)
    return net


NET_FAULTS: dict[str, Callable[[nn.Module, float], nn.Module]] = {
    "constant_weights": _constant_weights,
    "weight_gain": _weight_gain,
    "last_weights": _last_weights,
    "last_mean": _last_mean,
    "output_bias": _output_bias,
    "hidden_bias": _hidden_bias,
    "cut": lambda net, depth: _inserted(net, Cut(), depth),
    "rounded": lambda net, depth: _inserted(net, Rounded(), depth),
    "log_head": lambda net, _: nn.Sequential(net, Logarithm()),
    "out_softmax": lambda net, _: nn.Sequential(net, nn.Softmax(1)),
    "out_sigmoid": lambda net, _: nn.Sequential(net, nn.Sigmoid()),
    "out_tanh": lambda net, _: nn.Sequential(net, nn.Tanh()),
    "out_relu": lambda net, _: nn.Sequential(net, nn.ReLU()),
    "batch_norm_momentum": _batch_norm_momentum,
    "alike_embedding": _alike_embedding,
}


def faulty_data(data: Data, recipe: Recipe) -> Data:
    """Return the data with the recipe's faults."""
    generator = torch.Generator().manual_seed(recipe.seed)
    for name, amount in recipe.faults:
        if name in DATA_FAULTS:
            data = DATA_FAULTS[name](data, amount, generator)
    return data


def faulty_net(net: nn.Module, recipe: Recipe) -> nn.Module:
    """Return the network with the recipe's faults."""
    with torch.no_grad():
        for name, amount in recipe.faults:
            if name in NET_FAULTS:
                net = NET_FAULTS[name](net, amount)
    return net
