"""Modules whose data have the problem that a check of inputs, labels or loaders looks for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, get_worker_info

from checks.subjects import SAMPLES, Pair, Plain, labels, loader, mlp, numbers


def sloped(x: Tensor) -> Tensor:
    """Return classes that depend on the data."""
    return x.reshape(len(x), -1)[:, :3].argmax(1)


def train_on(x: Tensor, y: Tensor | None = None, **options: Any) -> Pair:
    """Return a classifier of tables, and a loader."""
    net = mlp() if x.shape[1] == 8 else nn.Linear(x.shape[1], 3)
    return Plain(net), loader(x, sloped(x) if y is None else y, **options)


def splits(x: Tensor, y: Tensor, held_x: Tensor, held_y: Tensor) -> Pair:
    """Return a classifier of tables, and loaders of both splits."""
    return Plain(mlp()), (loader(x, y), loader(held_x, held_y, shuffle=False))


def shifted() -> Pair:
    """Validation was not normalised."""
    x, held = numbers(SAMPLES, 8), numbers(SAMPLES, 8, seed=8)
    return splits(x, sloped(x), 4 * held + 5, sloped(held))


def leaked(share: float = 0.5) -> Pair:
    """Return splits of which a share of validation is training's."""
    x, held = numbers(SAMPLES, 8), numbers(SAMPLES, 8, seed=8)
    n = int(share * SAMPLES)
    held = torch.cat([x[:n], held[n:]])
    return splits(x, sloped(x), held, sloped(held))


def by_class(train: Tensor, held: Tensor) -> Pair:
    """Return splits with these labels."""
    x, other = numbers(len(train), 8), numbers(len(held), 8, seed=8)
    return splits(x, train, other, held)


def counted(*counts: int) -> Tensor:
    """Return so many labels of each class, in no particular order."""
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]


def rows_for_channels() -> Pair:
    """A convolution that was made for pictures whose channels come last."""
    net = nn.Sequential(nn.Conv2d(24, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(88, 3))
    return Plain(net), loader(numbers(SAMPLES, 24, 24, 3), labels())


class Stuck(Sampler[int]):
    """Draws the same three samples all the time."""

    def __init__(self, times: int = SAMPLES // 3) -> None:
        self.times = times

    def __len__(self) -> int:
        return 3 * self.times

    def __iter__(self) -> Iterator[int]:
        yield from [0, 1, 2] * self.times


class Greedy(IterableDataset[Any]):
    """Gives everything in each worker, unless it is told to share."""

    def __init__(self, *, shares: bool = False) -> None:
        self.shares = shares

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        x = numbers(SAMPLES, 8)
        first, step = (info.id, info.num_workers) if info and self.shares else (0, 1)
        yield from zip(x[first::step], sloped(x)[first::step], strict=True)


class Noisy(Dataset[Any]):
    """Adds noise to samples, from a generator of its own.

    Args:
        generator: Draws it; None takes NumPy's global one.
    """

    def __init__(self, generator: Any = None) -> None:
        self.x = numbers(SAMPLES, 8)
        self.transforms = [generator]

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Any:
        generator = self.transforms[0]
        draw = np.random.standard_normal if generator is None else generator.standard_normal
        return self.x[index] + 0.1 * torch.tensor(draw(8)).float(), sloped(self.x)[index]


class Unseeded(Noisy):
    """Asks the system for its noise."""

    def __getitem__(self, index: int) -> Any:
        noise = np.frombuffer(os.urandom(8), np.uint8) / 256.0
        return self.x[index] + torch.tensor(noise).float(), sloped(self.x)[index]


def noisy(**options: Any) -> Pair:
    """Return a classifier, and a loader of two workers with a generator in the data set."""
    generator = np.random.default_rng(0)
    return Plain(mlp()), DataLoader(Noisy(generator), 16, **{"num_workers": 2, **options})


def half_constant() -> Pair:
    """Half of the columns hold nothing."""
    x = numbers(SAMPLES, 8)
    return train_on(torch.cat([x[:, :4], torch.zeros(SAMPLES, 4)], 1))


def twice() -> Pair:
    """A column is there in two units."""
    x = numbers(SAMPLES, 8)
    return train_on(torch.cat([x[:, :7], 2.54 * x[:, :1]], 1))
