"""Healthy runs: what must not be alarmed at."""

from __future__ import annotations

import random
from typing import Any

from .bases import OPTIMIZERS, common, images, regression, sequences, table, words
from .cases import health
from .recipe import Recipe
from .train import Outcome


def learns(run: Outcome) -> str:
    """The loss has fallen by half, or the score is good, and nothing is broken."""
    if not run.end.finite:
        return "weights are not finite"
    hurt = max([0.0, *run.end.dead.values()])
    if hurt >= 0.2:
        return f"{hurt:.0%} of the units of a layer are dead"
    flat = max([0.0, *run.end.saturated.values()])
    if flat >= 0.4:
        return f"{flat:.0%} of the inputs of a layer are where it is flat"
    # The same tenth from which on a sick run is said to overfit.
    if run.end.score - run.end.held_score >= 0.1:
        return f"it overfits: score {run.end.score:.2f}, held out {run.end.held_score:.2f}"
    if run.gain() >= 0.5 or run.end.score >= 0.9:
        return ""
    return f"the loss went from {run.first:.3g} to {run.last:.3g}, score {run.end.score:.2f}"


def learns_slowly(run: Outcome) -> str:
    """The loss has fallen by a fifth."""
    why = learns(run)
    return "" if why.startswith("the loss went") and run.gain() >= 0.2 else why


def goes_on(run: Outcome) -> str:
    """The network answers well; the loss may have been low from the start."""
    return "" if run.end.score >= 0.7 else f"score {run.end.score:.2f}"


def _plain(draw: Any, name: str) -> None:
    def recipe(rng: random.Random) -> Recipe:
        made: Recipe = draw(rng)
        return made

    recipe.__name__ = name
    health(learns if draw is not regression else learns_slowly)(recipe)


for _draw, _name in ((table, "classes"), (images, "images"), (sequences, "sequences"),
                     (words, "texts"), (regression, "regression")):  # fmt: skip
    _plain(_draw, _name)


@health(learns)
def deep_with_norm(rng: random.Random) -> Recipe:
    """Six to ten layers with batch or layer norm."""
    return table(
        rng, data="digits", depth=rng.choice([6, 8, 10]), norm=rng.choice(["bn", "ln"]),
        act=rng.choice(["relu", "tanh", "gelu"]), optimizer=rng.choice(["momentum", "adam"]),
    )  # fmt: skip


@health(learns)
def deep_he(rng: random.Random) -> Recipe:
    """Five to seven ReLU layers with He's weights."""
    return table(
        rng, data="digits", depth=rng.choice([5, 6, 7]), act="relu", init="he", width=128,
        optimizer=rng.choice(["momentum", "adam"]), rate=0.3,
    )  # fmt: skip


@health(learns)
def deep_residual(rng: random.Random) -> Recipe:
    """Four to six residual blocks."""
    return images(rng, net="resnet", norm="", act="relu", depth=rng.choice([4, 6]), width=8)


@health(learns)
def deep_transformer(rng: random.Random) -> Recipe:
    """Three or four encoder layers, with warm-up and dropout."""
    return sequences(
        rng, net="transformer", data="rows", depth=rng.choice([3, 4]), norm="pre",
        act=rng.choice(["gelu", "relu"]), schedule=rng.choice(["warmup", "warmup-cosine"]),
        dropout=rng.choice([0.0, 0.1]), clip=rng.choice([0.0, 1.0]), rate=0.5,
    )  # fmt: skip


@health(learns)
def sparse_relu(rng: random.Random) -> Recipe:
    """Units that fire for few samples each."""
    return table(
        rng, data="digits", act="relu", init="he", depth=2, width=rng.choice([128, 256]),
    ).with_faults(hidden_bias=-rng.uniform(0.3, 0.8))  # fmt: skip


@health(learns_slowly)
def autoencoder(rng: random.Random) -> Recipe:
    """Digits through eight numbers."""
    return Recipe(**{
        **common(rng), "data": "copies", "net": "autoencoder",
        "act": rng.choice(["relu", "tanh", "gelu"]),
        "optimizer": rng.choice(["adam", "adamw"]), "logs_metric": False,
    })  # fmt: skip


@health(lambda run: "" if run.end.finite and 0.02 < run.last < 20 else "one player has won")
def adversaries(rng: random.Random) -> Recipe:
    """A generator against a judge."""
    return Recipe(**{
        **common(rng), "net": "adversaries", "rate": 0.5, "logs_metric": False,
        "dropout": rng.choice([0.0, 0.3]),
    })  # fmt: skip


@health(goes_on)
def frozen_backbone(rng: random.Random) -> Recipe:
    """A new head on frozen features."""
    return table(
        rng, net="frozen-backbone", data="digits", norm=rng.choice(["", "bn", "ln"]), depth=2,
        act=rng.choice(["relu", "gelu"]), optimizer=rng.choice(["adam", "momentum"]),
        dropout=rng.choice([0.0, 0.2]),
    )  # fmt: skip


@health(goes_on)
def gentle(rng: random.Random) -> Recipe:
    """Fine-tuning of a network that knows the task, in small steps."""
    return table(
        rng, net="gentle", data="digits", depth=2, act=rng.choice(["relu", "gelu"]),
        optimizer=rng.choice(["adam", "adamw"]), rate=rng.choice([0.01, 0.05]),
        schedule=rng.choice(["", "warmup", "cosine"]), norm=rng.choice(["", "ln"]),
    )  # fmt: skip


@health(learns)
def adapters(rng: random.Random) -> Recipe:
    """Thin layers beside frozen ones, half of which start at zero."""
    return table(
        rng, net="adapters", data="digits", norm="", depth=2, act=rng.choice(["relu", "gelu"]),
        optimizer=rng.choice(["adam", "adamw"]), rate=1.0,
    )  # fmt: skip


@health(learns)
def decay_and_dropout(rng: random.Random) -> Recipe:
    """Usual regularisation."""
    return table(
        rng, weight_decay=rng.choice([1e-4, 1e-3]), dropout=rng.choice([0.2, 0.4]), validates=True,
        norm=rng.choice(["", "bn"]), width=128, smoothing=rng.choice([0.0, 0.1]),
    )  # fmt: skip


@health(learns)
def schedules(rng: random.Random) -> Recipe:
    """Learning rates that rise, fall, or both."""
    shape = rng.choice(["warmup", "cosine", "warmup-cosine", "one-cycle", "step"])
    return rng.choice([table, images])(rng, schedule=shape, steps=400)


@health(learns)
def accumulation(rng: random.Random) -> Recipe:
    """Several batches a step."""
    return rng.choice([table, words])(rng, accumulate=rng.choice([2, 4]), batch_size=8)


@health(learns)
def half_precision(rng: random.Random) -> Recipe:
    """bfloat16 where it is safe."""
    return rng.choice([table, images])(rng, precision="bf16-mixed")


@health(learns)
def small_batches(rng: random.Random) -> Recipe:
    """One to eight samples a step, at a learning rate that suits them."""
    size = rng.choice([1, 2, 4, 8])
    return table(
        rng, batch_size=size, steps=600, rate=0.1 if size < 4 else 0.25,
        optimizer=rng.choice(["sgd", "adam"]), data=rng.choice(["digits", "blobs", "moons"]),
    )  # fmt: skip


@health(lambda run: "" if run.gain() >= 0.3 else "it never leaves the plateau")
def early_plateau(rng: random.Random) -> Recipe:
    """Sigmoid layers that need a while before anything moves."""
    return table(
        rng, data="digits", act="sigmoid", depth=rng.choice([2, 3]), init="xavier", norm="",
        optimizer=rng.choice(["adam", "momentum"]), rate=2.0, steps=600,
    )  # fmt: skip


@health(learns)
def tied_weights(rng: random.Random) -> Recipe:
    """One matrix as first and as last layer."""
    return Recipe(**{
        **common(rng), "data": "counting", "net": "language", "width": rng.choice([32, 64]),
        "rate": 3.0, "optimizer": rng.choice(["adam", "adamw"]), "logs_metric": False,
    })  # fmt: skip


@health(learns)
def sparse_embedding(rng: random.Random) -> Recipe:
    """A vocabulary of which most words are rare or never come."""
    return words(rng, net="sparse-words")


@health(goes_on)
def tiny_data(rng: random.Random) -> Recipe:
    """Twenty to sixty samples, learned by heart."""
    return table(
        rng, samples=rng.choice([20, 40, 60]), batch_size=rng.choice([10, 20]), validates=False,
        data=rng.choice(["digits", "blobs", "moons"]),
    )  # fmt: skip


@health(learns)
def segmentation(rng: random.Random) -> Recipe:
    """An answer for each pixel."""
    return Recipe(**{
        **common(rng), "data": "pixels", "net": "pixelwise", "width": 8,
        "depth": rng.choice([2, 3]), "norm": rng.choice(["", "bn"]),
        "act": rng.choice(["relu", "gelu"]), "optimizer": rng.choice(["adam", "momentum"]),
    })  # fmt: skip


@health(learns)
def several_labels(rng: random.Random) -> Recipe:
    """Several yes-or-no questions at once."""
    return table(rng, data=rng.choice(["labels", "cancer"]), optimizer=rng.choice(OPTIMIZERS))


@health(learns_slowly)
def unscaled_but_fine(rng: random.Random) -> Recipe:
    """Targets of any scale that the loss and the head were made for: small ones."""
    return regression(rng).with_faults(target_scale=rng.choice([0.1, 0.5, 2.0]))


@health(
    lambda run: "" if run.end.lowest_recall >= 0.6 and run.gain() >= 0.5 else "rare classes lost"
)
def imbalance_learned(rng: random.Random) -> Recipe:
    """A class with many more samples than others, and all are learned."""
    return table(
        rng, data="digits", logs_metric=True, optimizer="adam", rate=1.0, depth=2, steps=400,
    ).with_faults(rare_classes=rng.choice([0.15, 0.3]))  # fmt: skip


@health(lambda run: "" if run.gain() >= 0.1 and not learns_slowly(run) else "not learned")
def noisy_labels(rng: random.Random) -> Recipe:
    """A quarter of the labels is wrong, and the rest is learned."""
    return table(
        rng, data="digits", optimizer=rng.choice(["adam", "momentum"]), act="relu", steps=400,
        rate=0.3, depth=1, width=32,
    ).with_faults(shuffled_labels=0.25)  # fmt: skip
