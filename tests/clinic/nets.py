"""Small networks of many kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .data import Data
from .recipe import Recipe

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "selu": nn.SELU,
}


def mlp(recipe: Recipe, inputs: int, outputs: int) -> nn.Sequential:
    """Return a fully connected network."""
    layers: list[nn.Module] = [nn.Flatten()]
    for i in range(recipe.depth):
        layers.append(nn.Linear(inputs if i == 0 else recipe.width, recipe.width))
        if recipe.norm:
            layers.append({"bn": nn.BatchNorm1d, "ln": nn.LayerNorm}[recipe.norm](recipe.width))
        layers.append(ACTIVATIONS[recipe.act]())
        if recipe.dropout:
            layers.append(nn.Dropout(recipe.dropout))
    last = recipe.width if recipe.depth else inputs
    return nn.Sequential(*layers, nn.Linear(last, outputs))


class Convolutions(nn.Module):
    """Convolutions with pooling, on images of 8 by 8."""

    def __init__(self, recipe: Recipe, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for i in range(recipe.depth):
            width = recipe.width * (i + 1)
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            if recipe.norm == "bn":
                layers.append(nn.BatchNorm2d(width))
            layers.append(ACTIVATIONS[recipe.act]())
            if i < 2:
                layers.append(nn.MaxPool2d(2))
            channels = width
        self.body = nn.Sequential(*layers)
        side = 8 >> min(recipe.depth, 2)
        self.drop = nn.Dropout(recipe.dropout)
        self.head = nn.Linear(channels * side * side, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.drop(self.body(x.view(-1, 1, 8, 8)).flatten(1)))
        return out


class Residual(nn.Module):
    """Two convolutions with batch norm, and a way around them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.norm1(self.first(x)))
        return functional.relu(x + self.norm2(self.second(h)))


class ResNet(nn.Module):
    """Residual blocks on images of 8 by 8; calls functions rather than modules."""

    def __init__(self, recipe: Recipe, outputs: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, recipe.width, 3, padding=1)
        self.blocks = nn.Sequential(*[Residual(recipe.width) for _ in range(recipe.depth)])
        self.head = nn.Linear(recipe.width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(self.stem(x.view(-1, 1, 8, 8))).mean((2, 3)))
        return out


class Recurrent(nn.Module):
    """A recurrent network that answers after the last position."""

    def __init__(self, recipe: Recipe, data: Data) -> None:
        super().__init__()
        kind: Any = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}[recipe.net]
        self.rnn = kind(data.x.shape[-1], recipe.width, recipe.depth, batch_first=True)
        self.head = nn.Linear(recipe.width, data.outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rnn(x)[0][:, -1])
        return out


class Loop(nn.Module):
    """A recurrent network written as a loop; its recurrent weights are orthogonal times `gain`."""

    def __init__(self, recipe: Recipe, data: Data, gain: float) -> None:
        super().__init__()
        self.into = nn.Linear(data.x.shape[-1], recipe.width)
        self.again = nn.Linear(recipe.width, recipe.width, bias=False)
        nn.init.orthogonal_(self.again.weight, gain)
        self.act = ACTIVATIONS[recipe.act]()
        self.head = nn.Linear(recipe.width, data.outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), self.again.in_features)
        for t in range(x.shape[1]):
            h = self.act(self.into(x[:, t]) + self.again(h))
        out: Tensor = self.head(h)
        return out


class Transformer(nn.Module):
    """Encoder layers over the positions of a sequence."""

    def __init__(self, recipe: Recipe, data: Data) -> None:
        super().__init__()
        length, channels = data.x.shape[1:]
        self.into = nn.Linear(channels, recipe.width)
        self.place = nn.Parameter(0.02 * torch.randn(length, recipe.width))
        layer = nn.TransformerEncoderLayer(
            recipe.width,
            4,
            2 * recipe.width,
            recipe.dropout,
            "gelu" if recipe.act == "gelu" else "relu",
            batch_first=True,
            norm_first=recipe.norm == "pre",
        )
        self.layers = nn.TransformerEncoder(layer, recipe.depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(recipe.width)
        self.head = nn.Linear(recipe.width, data.outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layers(self.into(x) + self.place)
        out: Tensor = self.head(self.norm(h).mean(1))
        return out


class Words(nn.Module):
    """The mean of the words' vectors, and a hidden layer."""

    def __init__(self, recipe: Recipe, outputs: int, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, recipe.width)
        self.body = mlp(recipe, recipe.width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(self.embedding(x).mean(1))
        return out


class Language(nn.Module):
    """The next token, by a GRU whose first and last weights are the same."""

    def __init__(self, recipe: Recipe, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, recipe.width)
        nn.init.normal_(self.embedding.weight, std=recipe.width**-0.5)
        self.gru = nn.GRU(recipe.width, recipe.width, batch_first=True)
        self.head = nn.Linear(recipe.width, vocabulary, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.gru(self.embedding(x))[0])
        return out.transpose(1, 2)


class Causal(nn.Module):
    """The next token, by encoder layers that look back only."""

    def __init__(self, recipe: Recipe, data: Data) -> None:
        super().__init__()
        length = data.x.shape[1]
        self.embedding = nn.Embedding(data.outputs, recipe.width)
        self.place = nn.Parameter(0.02 * torch.randn(length, recipe.width))
        layer = nn.TransformerEncoderLayer(
            recipe.width, 4, 4 * recipe.width, recipe.dropout, "gelu",
            batch_first=True, norm_first=True,
        )  # fmt: skip
        self.layers = nn.TransformerEncoder(layer, recipe.depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(recipe.width)
        self.head = nn.Linear(recipe.width, data.outputs)
        self.mask: Tensor
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length))

    def forward(self, x: Tensor) -> Tensor:
        h = self.layers(self.embedding(x) + self.place, self.mask, is_causal=True)
        out: Tensor = self.head(self.norm(h))
        return out.transpose(1, 2)


def autoencoder(recipe: Recipe) -> nn.Sequential:
    """Return 64 numbers by way of 8."""
    act = ACTIVATIONS[recipe.act]
    return nn.Sequential(
        nn.Linear(64, recipe.width), act(), nn.Linear(recipe.width, 8),
        nn.Linear(8, recipe.width), act(), nn.Linear(recipe.width, 64), nn.Sigmoid(),
    )  # fmt: skip


def pixelwise(recipe: Recipe, outputs: int) -> nn.Sequential:
    """Return one answer for each pixel."""
    layers: list[nn.Module] = []
    for i in range(recipe.depth):
        layers.append(nn.Conv2d(recipe.width if i else 1, recipe.width, 3, padding=1))
        if recipe.norm == "bn":
            layers.append(nn.BatchNorm2d(recipe.width))
        layers.append(ACTIVATIONS[recipe.act]())
    return nn.Sequential(*layers, nn.Conv2d(recipe.width, outputs, 1))


def initialised(net: nn.Module, recipe: Recipe) -> nn.Module:
    """Draw the weights of linear and convolution layers anew, unless PyTorch's own are wanted."""
    draw: dict[str, Callable[[Tensor], Any]] = {
        "he": lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"),
        "xavier": nn.init.xavier_normal_,
        "normal": lambda w: nn.init.normal_(w, std=recipe.init_std),
    }
    if recipe.init in draw:
        for module in net.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                draw[recipe.init](module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    return net


def build(recipe: Recipe, data: Data) -> nn.Module:
    """Return the recipe's network, without its faults."""
    makers: dict[str, Callable[[], nn.Module]] = {
        "mlp": lambda: mlp(recipe, data.features, data.outputs),
        "cnn": lambda: Convolutions(recipe, data.outputs),
        "resnet": lambda: ResNet(recipe, data.outputs),
        "gru": lambda: Recurrent(recipe, data),
        "lstm": lambda: Recurrent(recipe, data),
        "rnn": lambda: Recurrent(recipe, data),
        "loop": lambda: Loop(recipe, data, recipe.fault("recurrent_gain") or 1.0),
        "transformer": lambda: Transformer(recipe, data),
        "words": lambda: Words(recipe, data.outputs, 400),
        "sparse-words": lambda: Words(recipe, data.outputs, 5000),
        "language": lambda: Language(recipe, data.outputs),
        "causal": lambda: Causal(recipe, data),
        "autoencoder": lambda: autoencoder(recipe),
        "pixelwise": lambda: pixelwise(recipe, data.outputs),
    }
    return initialised(makers[recipe.net](), recipe)
