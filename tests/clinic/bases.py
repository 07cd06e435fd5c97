"""Recipes that train well, for generators to spoil or to keep."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from .recipe import Recipe

OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")


def common(rng: random.Random) -> dict[str, Any]:
    """Draw what any recipe may have."""
    return {
        "seed": rng.randrange(10**6),
        "batch_size": rng.choice([16, 32, 32, 64]),
        "steps": rng.choice([300, 400, 600]),
        "every": rng.choice([5, 10, 10, 20]),
        "rate": 10 ** rng.uniform(-0.25, 0.25),
        "logs_metric": rng.random() < 0.3,
        "validates": rng.random() < 0.7,
    }


def table(rng: random.Random, **changes: Any) -> Recipe:
    """Draw a fully connected classifier."""
    act = rng.choice(["relu", "relu", "leaky", "tanh", "gelu", "silu"])
    drawn = {
        **common(rng),
        "data": rng.choice(["digits", "digits", "blobs", "mixed", "wine", "moons"]),
        "act": act,
        "width": rng.choice([32, 64, 128]),
        "depth": rng.choice([1, 2, 3]),
        "init": rng.choice(["default", "he", "xavier"]),
        "optimizer": rng.choice(OPTIMIZERS),
    }
    return Recipe(**{**drawn, **changes})


def regression(rng: random.Random, **changes: Any) -> Recipe:
    """Draw a fully connected network for standardised targets."""
    drawn = {
        **common(rng),
        "data": rng.choice(["friedman", "diabetes", "linear"]),
        "act": rng.choice(["relu", "tanh", "gelu"]),
        "width": rng.choice([32, 64]),
        "depth": rng.choice([1, 2]),
        "optimizer": rng.choice(["momentum", "adam", "adamw"]),
        "rate": 10 ** rng.uniform(-0.5, 0.0),
    }
    return Recipe(**{**drawn, **changes})


def images(rng: random.Random, **changes: Any) -> Recipe:
    """Draw a convolutional network, residual or not."""
    net = rng.choice(["cnn", "cnn", "resnet"])
    drawn = {
        **common(rng),
        "net": net,
        "width": rng.choice([8, 16]) if net == "cnn" else 8,
        "depth": 2,
        "norm": rng.choice(["", "bn"]) if net == "cnn" else "",
        "act": rng.choice(["relu", "relu", "gelu"]) if net == "cnn" else "relu",
        "optimizer": rng.choice(["momentum", "adam", "adamw"]),
        "steps": 300,
    }
    return Recipe(**{**drawn, **changes})


def sequences(rng: random.Random, **changes: Any) -> Recipe:
    """Draw a recurrent network or a transformer."""
    net = rng.choice(["gru", "lstm", "transformer"])
    drawn = {
        **common(rng),
        "data": "rows" if net == "transformer" else rng.choice(["rows", "waves"]),
        "net": net,
        "width": 32,
        "depth": rng.choice([1, 2]) if net == "transformer" else 1,
        "norm": rng.choice(["", "pre"]) if net == "transformer" else "",
        "act": "gelu",
        "optimizer": rng.choice(["adam", "adamw"]),
        "steps": 300,
    }
    return Recipe(**{**drawn, **changes})


def words(rng: random.Random, **changes: Any) -> Recipe:
    """Draw a classifier of texts."""
    drawn = {
        **common(rng),
        "data": "topics",
        "net": "words",
        "width": rng.choice([16, 32]),
        "depth": 1,
        "optimizer": rng.choice(["adam", "adamw"]),
        "rate": 10 ** rng.uniform(0.0, 0.5),
    }
    return Recipe(**{**drawn, **changes})


def anything(rng: random.Random, **changes: Any) -> Recipe:
    """Draw a recipe of any of these kinds."""
    kinds: Sequence[Any] = [table, table, table, regression, images, sequences, words]
    made: Recipe = rng.choice(kinds)(rng, **changes)
    return made
