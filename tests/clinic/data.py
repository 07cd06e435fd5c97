"""Small data sets of many kinds: real digits, scikit-learn's, and made-up sequences."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor

MOST = 1400
"""Training samples at most."""


class Data(NamedTuple):
    """Inputs and targets, split in two."""

    x: Tensor
    y: Tensor
    held_x: Tensor
    held_y: Tensor
    kind: str
    """`classes`, `binary`, `labels`, `values`, `copy`, `pixels` or `tokens`."""
    outputs: int
    """Numbers that the network gives for one sample, position or pixel."""

    @property
    def features(self) -> int:
        """Numbers of one sample."""
        return int(self.x[0].numel())


@lru_cache(maxsize=1)
def _raw_digits() -> tuple[Tensor, Tensor]:
    found = datasets.load_digits()
    return torch.tensor(found.data).float() / 16, torch.tensor(found.target)


def _scaled(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / (x.std(0) + 0.05)


def _split(x: Tensor, y: Tensor, kind: str, outputs: int, seed: int, *, most: int = MOST) -> Data:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    held = min(400, len(x) // 4)
    train, rest = order[held : held + most], order[:held]
    return Data(x[train], y[train], x[rest], y[rest], kind, outputs)


def _arrays(x: np.ndarray, y: np.ndarray) -> tuple[Tensor, Tensor]:
    return _scaled(torch.tensor(np.asarray(x)).float()), torch.tensor(np.asarray(y))


def _digits(seed: int) -> Data:
    x, y = _raw_digits()
    return _split(_scaled(x), y, "classes", 10, seed)


def _blobs(seed: int) -> Data:
    x, y = datasets.make_blobs(1500, 12, centers=5, cluster_std=3.0, random_state=seed)
    return _split(*_arrays(x, y), "classes", 5, seed)


def _moons(seed: int) -> Data:
    x, y = datasets.make_moons(1500, noise=0.15, random_state=seed)
    return _split(*_arrays(x, y), "classes", 2, seed)


def _mixed(seed: int) -> Data:
    x, y = datasets.make_classification(
        1600, 20, n_informative=8, n_classes=4, class_sep=1.5, flip_y=0.02, random_state=seed
    )
    return _split(*_arrays(x, y), "classes", 4, seed)


def _wine(seed: int) -> Data:
    found = datasets.load_wine()
    return _split(*_arrays(found.data, found.target), "classes", 3, seed)


def _cancer(seed: int) -> Data:
    found = datasets.load_breast_cancer()
    x, y = _arrays(found.data, found.target)
    return _split(x, y.float()[:, None], "binary", 1, seed)


def _labels(seed: int) -> Data:
    x, y = _raw_digits()
    each = torch.stack([y % 2 == 0, y > 4, y % 3 == 0, (y == 1) | (y == 7)], 1)
    return _split(_scaled(x), each.float(), "labels", 4, seed)


def _tags(seed: int) -> Data:
    """Counts of words, and which of six subjects a text is about."""
    x, y = datasets.make_multilabel_classification(
        1600, 20, n_classes=6, n_labels=2, random_state=seed
    )
    inputs, labels = _arrays(x, y)
    return _split(inputs, labels.float(), "labels", 6, seed)


def _values(x: np.ndarray, y: np.ndarray, seed: int) -> Data:
    inputs, targets = _arrays(x, y)
    targets = targets.float()
    return _split(inputs, ((targets - targets.mean()) / targets.std())[:, None], "values", 1, seed)


def _friedman(seed: int) -> Data:
    x, y = datasets.make_friedman1(1500, 10, noise=1.0, random_state=seed)
    return _values(x, y, seed)


def _diabetes(seed: int) -> Data:
    found = datasets.load_diabetes()
    return _values(found.data, found.target, seed)


def _linear(seed: int) -> Data:
    x, y = datasets.make_regression(1200, 15, noise=20.0, random_state=seed)
    return _values(x, y, seed)


def _copies(seed: int) -> Data:
    x, _ = _raw_digits()
    return _split(x, x, "copy", 64, seed)


def _pixels(seed: int) -> Data:
    """Bright pixels under noise, and the border around them."""
    x, _ = _raw_digits()
    images = x.view(-1, 1, 8, 8)
    near = torch.nn.functional.max_pool2d(images, 3, stride=1, padding=1)[:, 0]
    y = torch.where(images[:, 0] > 0.5, 2, torch.where(near > 0.5, 1, 0))
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    noisy = images + 0.15 * noise
    return _split((noisy - noisy.mean()) / noisy.std(), y, "pixels", 3, seed)


def _rows(seed: int) -> Data:
    x, y = _raw_digits()
    return _split(_scaled(x).view(-1, 8, 8), y, "classes", 10, seed)


def _waves(seed: int, length: int = 24) -> Data:
    """Sequences of one channel; the class is the frequency."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 4, (1400,), generator=generator)
    phase = 6.3 * torch.rand(1400, 1, generator=generator)
    time = torch.arange(length) / length
    x = torch.sin(6.3 * (y[:, None] + 1) * time + phase)
    x = x + 0.3 * torch.randn(x.shape, generator=generator)
    return _split(_scaled(x)[..., None], y, "classes", 4, seed)


def _memory(seed: int, length: int = 24) -> Data:
    """Sequences of noise; the class is the sign of the first two numbers."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1400, length, 2, generator=generator)
    y = (x[:, 0, 0] > 0).long() + 2 * (x[:, 0, 1] > 0).long()
    x[:, 1:] *= 0.1
    return _split(x, y, "classes", 4, seed)


def _topics(seed: int, vocabulary: int = 400) -> Data:
    """Bags of words; four words in ten belong to the topic. So many that all words are learned."""
    size, generator = (4400, 16), torch.Generator().manual_seed(seed)
    y = torch.randint(0, 8, size[:1], generator=generator)
    own = y[:, None] * 50 + torch.randint(0, 50, size, generator=generator)
    any_word = torch.randint(0, vocabulary, size, generator=generator)
    x = torch.where(torch.rand(size, generator=generator) < 0.4, own, any_word)
    return _split(x, y, "classes", 8, seed, most=4000)


def _counting(seed: int) -> Data:
    """Numbers that count up by one, two or three: predict the next."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(0, 50, (1400, 1), generator=generator)
    stride = torch.randint(1, 4, (1400, 1), generator=generator)
    x = (start + stride * torch.arange(11)) % 50
    return _split(x[:, :-1], x[:, 1:], "tokens", 50, seed)


def _parity(seed: int) -> Data:
    """Parity of nine bits out of sixteen: no network of this size learns it in time."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 2, (20_000, 16), generator=generator)
    return _split(2.0 * x - 1.0, x[:, :9].sum(1) % 2, "classes", 2, seed, most=10_000)


def _noise(seed: int) -> Data:
    """Noise, and classes that have nothing to do with it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(10_000, 16, generator=generator)
    y = torch.randint(0, 5, (10_000,), generator=generator)
    return _split(x, y, "classes", 5, seed, most=8000)


DATA: dict[str, Callable[[int], Data]] = {
    "digits": _digits,
    "blobs": _blobs,
    "moons": _moons,
    "mixed": _mixed,
    "wine": _wine,
    "cancer": _cancer,
    "labels": _labels,
    "tags": _tags,
    "friedman": _friedman,
    "diabetes": _diabetes,
    "linear": _linear,
    "copies": _copies,
    "pixels": _pixels,
    "rows": _rows,
    "waves": _waves,
    "memory": _memory,
    "topics": _topics,
    "counting": _counting,
    "parity": _parity,
    "noise": _noise,
}
TABLES = ("digits", "blobs", "mixed", "wine", "moons")
"""Classes for fully connected networks."""
REGRESSIONS = ("friedman", "diabetes", "linear")


def load(name: str, seed: int, samples: int = 0) -> Data:
    """Return a data set, the first `samples` of its training half."""
    data = DATA[name](seed)
    if samples:
        data = data._replace(x=data.x[:samples], y=data.y[:samples])
    return data
