"""More healthy runs: longer, larger, resumed, and with less usual losses and optimizers."""

from __future__ import annotations

import random

from .bases import common, images, regression, sequences, table, words
from .cases import health
from .healthy import goes_on, learns, learns_slowly
from .recipe import Recipe


@health(learns)
def long_run(rng: random.Random) -> Recipe:
    """Two thousand steps, most of them after the loss has settled."""
    return rng.choice([table, images, words])(
        rng, steps=2000, every=rng.choice([10, 25, 50]), rate=0.3, dropout=rng.choice([0.0, 0.2]),
    )  # fmt: skip


@health(learns)
def wide_and_deep(rng: random.Random) -> Recipe:
    """Layers of 512 units."""
    return table(
        rng, data=rng.choice(["digits", "mixed"]), width=512, depth=rng.choice([3, 5]), init="he",
        act=rng.choice(["relu", "gelu", "silu"]), optimizer=rng.choice(["momentum", "adam"]),
        rate=0.2, steps=300,
    )  # fmt: skip


@health(learns)
def large_images(rng: random.Random) -> Recipe:
    """Eight residual blocks, or convolutions with many channels."""
    if rng.random() < 0.5:
        return images(rng, net="resnet", norm="", act="relu", depth=8, width=16)
    return images(rng, net="cnn", width=32, depth=3, rate=0.5)


@health(learns)
def causal_transformer(rng: random.Random) -> Recipe:
    """The next token, by layer norm, attention and GELU."""
    return Recipe(**{
        **common(rng), "data": "counting", "net": "causal", "width": rng.choice([32, 64]),
        "depth": rng.choice([2, 3]), "optimizer": "adamw", "weight_decay": 0.01,
        "dropout": rng.choice([0.0, 0.1]), "schedule": rng.choice(["warmup", "warmup-cosine"]),
        "clip": 1.0, "logs_metric": False, "act": "gelu",
    })  # fmt: skip


@health(learns)
def scale_search(rng: random.Random) -> Recipe:
    """fp16 with a gradient scaler whose first steps overflow and are skipped."""
    return table(
        rng, precision="16-search", data="digits", act=rng.choice(["relu", "gelu"]), norm="",
        optimizer=rng.choice(["momentum", "adamw"]),
    )  # fmt: skip


@health(goes_on)
def resumed(rng: random.Random) -> Recipe:
    """From a checkpoint: the first loss that is seen is low, the optimizer has its moments."""
    return rng.choice([table, images, words])(rng, resumes=True, steps=rng.choice([400, 600, 1000]))


@health(learns)
def two_optimizers(rng: random.Random) -> Recipe:
    """One for the body, one for the head, stepped after the same backward pass."""
    return table(
        rng, net="in-turns", data="digits", optimizer="adam", norm=rng.choice(["", "bn"]),
        rate=rng.choice([0.3, 1.0]),
    )  # fmt: skip


@health(learns_slowly)
def other_losses(rng: random.Random) -> Recipe:
    """Absolute and Huber's errors for values, margins for classes."""
    if rng.random() < 0.7:
        return regression(rng, loss=rng.choice(["l1_loss", "smooth_l1_loss", "huber_loss"]))
    return table(rng, data=rng.choice(["digits", "blobs"]), loss="multi_margin_loss")


@health(learns)
def other_optimizers(rng: random.Random) -> Recipe:
    """RMSprop, NAdam and Adagrad."""
    return rng.choice([table, images])(
        rng, optimizer=rng.choice(["rmsprop", "nadam", "adagrad"]), rate=rng.uniform(0.3, 1.0)
    )


@health(learns)
def clipped(rng: random.Random) -> Recipe:
    """Gradients cut to a norm at nearly every step."""
    return rng.choice([table, images, sequences])(rng, clip=rng.choice([0.1, 0.5, 1.0]))


@health(learns_slowly)
def subjects(rng: random.Random) -> Recipe:
    """Which of six subjects a text is about, most of them rare."""
    return table(rng, data="tags", rate=0.5, depth=rng.choice([1, 2]), width=32)
