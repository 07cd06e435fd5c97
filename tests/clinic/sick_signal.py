"""Sick runs: gradients and activations."""

from __future__ import annotations

import random

from . import proofs
from .bases import OPTIMIZERS, images, regression, sequences, table, words
from .cases import sickness
from .recipe import Recipe
from .train import Outcome

Pair = tuple[Recipe, Recipe]
STUCK = ("loss-plateau", "underfitting", "constant-prediction", "learning-rate-too-low")


@sickness(
    "vanishing-gradient",
    proofs.all_of(proofs.slowed, proofs.shows(proofs.vanished, 300, "the ratio of gradients")),
    equals=("collapsed-activation", "init-scale"),
    brings=(*STUCK, "missing-gradient", "not-zero-centred"),
)
def deep_sigmoid(rng: random.Random) -> Pair:
    """Many sigmoids, each with a slope of at most a quarter."""
    sick = table(
        rng, data="digits", act="sigmoid", depth=rng.choice([5, 6, 8, 10]),
        init=rng.choice(["default", "xavier"]), optimizer=rng.choice(["sgd", "momentum", "adam"]),
    )  # fmt: skip
    return sick, sick.but(act="relu", init="he", depth=2, optimizer="adam", rate=1.0)


@sickness(
    "vanishing-gradient",
    proofs.all_of(proofs.slowed, proofs.shows(proofs.vanished, 300, "the ratio of gradients")),
    equals=("collapsed-activation", "init-scale"),
    brings=(*STUCK, "missing-gradient"),
)
def deep_default(rng: random.Random) -> Pair:
    """Many layers with weights that make gradients smaller at each, and biases."""
    sick = table(
        rng, data=rng.choice(["digits", "mixed"]), act=rng.choice(["relu", "gelu", "tanh"]),
        depth=rng.choice([12, 16]), width=rng.choice([32, 64]), init="default",
        optimizer=rng.choice(["sgd", "momentum"]),
    )  # fmt: skip
    return sick, sick.but(init="he" if sick.act != "tanh" else "xavier", rate=0.3, depth=4)


@sickness(
    "vanishing-gradient",
    proofs.all_of(
        proofs.harmed, proofs.shows(lambda run: run.start.forgotten, 300, "last over first")
    ),
    equals=("init-scale",),
    brings=(*STUCK, "missing-gradient", "collapsed-activation", "underfitting"),
)
def long_memory(rng: random.Random) -> Pair:
    """W1: a plain recurrent network that must remember what its weights forget."""
    sick = Recipe(
        rng.randrange(10**6), data="memory", net="loop", act="tanh", width=rng.choice([16, 32]),
        depth=1, rate=rng.choice([0.3, 1.0]), steps=300, every=rng.choice([5, 10]),
        optimizer=rng.choice(["sgd", "adam"]),
        faults=(("recurrent_gain", rng.uniform(0.2, 0.6)),),
    )  # fmt: skip
    return sick, sick.but(faults=(("recurrent_gain", 1.0),), optimizer="adam", rate=1.0)


def _explodes(sick: Outcome, well: Outcome) -> str:
    larger = proofs.size_of_gradient(sick) / max(proofs.size_of_gradient(well), 1e-30)
    return "" if larger >= 30 else f"gradients are {larger:.3g} times the twin's"


def _is_thrown(sick: Outcome, well: Outcome) -> str:
    """Gradients that are large because the first loss is, and make it fall, do not explode."""
    thrown = proofs.is_lost(sick) or max(sick.losses) >= 3 * sick.start.loss
    return "" if thrown else "the loss falls from its first value on"


@sickness(
    "exploding-gradient",
    proofs.all_of(proofs.slowed, _explodes, _is_thrown),
    equals=("init-scale", "learning-rate-too-high", "initial-loss"),
    brings=("non-finite", "dead-relu", "saturated-activation", "diverging-loss",
            "loss-oscillation", "loss-spike", "constant-prediction"),
)  # fmt: skip
def large_weights(rng: random.Random) -> Pair:
    """Deep layers whose weights are several times too large."""
    sick = table(
        rng, data=rng.choice(["digits", "mixed"]), act=rng.choice(["relu", "leaky", "gelu"]),
        depth=rng.choice([5, 6, 8]), init="he", optimizer=rng.choice(["sgd", "momentum"]),
        rate=0.3 * 10 ** rng.uniform(-0.3, 0.3), faults=(("weight_gain", rng.uniform(2.0, 4.0)),),
    )  # fmt: skip
    return sick, sick.but(faults=())


@sickness(
    "exploding-gradient",
    proofs.all_of(proofs.slowed, _explodes),
    equals=("init-scale", "learning-rate-too-high"),
    brings=("initial-loss", "non-finite", "dead-relu", "saturated-activation", "diverging-loss",
            "loss-oscillation", "loss-spike", "constant-prediction", "unnormalised-input"),
)  # fmt: skip
def recurrent_explosion(rng: random.Random) -> Pair:
    """A recurrent network whose weights stretch what they are given, again and again."""
    sick = Recipe(
        rng.randrange(10**6), data="waves", net="loop", act=rng.choice(["relu", "leaky"]),
        width=32, depth=1, rate=rng.choice([0.3, 1.0]), steps=300, every=rng.choice([5, 10]),
        optimizer=rng.choice(["sgd", "momentum"]),
        faults=(("recurrent_gain", rng.uniform(1.6, 2.2)),),
    )  # fmt: skip
    return sick, sick.but(faults=(("recurrent_gain", 0.9),))


@sickness(
    "missing-gradient",
    proofs.shows(proofs.unreached, 0.2, "the share of weights without gradient"),
    brings=(*STUCK, "parameter-not-in-optimizer"),
)
def detached(rng: random.Random) -> Pair:
    """A `.detach()` in the middle of the network."""
    well = table(rng, depth=rng.choice([2, 3]), norm=rng.choice(["", "", "ln"]))
    return well.with_faults(cut=rng.choice([0.5, 1.0])), well


@sickness(
    "missing-gradient",
    proofs.shows(proofs.unreached, 0.2, "the share of weights without gradient"),
    brings=STUCK,
)
def rounded(rng: random.Random) -> Pair:
    """A step function in the middle of the network."""
    well = table(rng, depth=rng.choice([2, 3]))
    return well.with_faults(rounded=rng.choice([0.5, 1.0])), well


@sickness(
    "parameter-not-in-optimizer",
    lambda sick, well: "" if len(sick.changed) < len(well.changed) else "all of it changed",
    brings=STUCK,
)
def forgotten(rng: random.Random) -> Pair:
    """An optimizer that was given a part of the parameters."""
    well = rng.choice([table, images, sequences, words, regression])(rng)
    return well.with_faults(forgotten=rng.uniform(0.3, 0.8)), well


@sickness(
    "noisy-gradient",
    proofs.all_of(
        proofs.worse,
        lambda sick, well: "it diverges" if proofs.is_lost(sick) else "",
        proofs.shows(proofs.stalled, 0.85, "the last quarter of the losses over the second"),
    ),
    equals=("learning-rate-too-high", "loss-oscillation"),
    brings=("underfitting", "loss-spike", "dead-relu", "diverging-loss", "loss-plateau"),
)
def tiny_batches(rng: random.Random) -> Pair:
    """One or two samples a step, at a learning rate that would suit many, until nothing moves.

    As many steps of larger batches get further, and these have stopped getting anywhere: having
    seen fewer samples is no harm that noise does.
    """
    base = rng.choice([table, regression])(
        rng, act=rng.choice(["relu", "tanh"]), depth=rng.choice([1, 2])
    )
    noisy = {"linear": "diabetes", "wine": "mixed", "blobs": "mixed"}
    optimizer = rng.choice(["sgd", "sgd", "momentum"])
    well = base.but(
        data=noisy.get(base.data, base.data), batch_size=64, steps=1600, optimizer=optimizer,
        rate=rng.uniform(0.3, 1.2) * (1.0 if optimizer == "sgd" else 0.3),
    )  # fmt: skip
    return well.but(batch_size=rng.choice([1, 2])), well


@sickness(
    "dead-relu",
    proofs.shows(proofs.dead, 0.4, "the share of dead units"),
    equals=("learning-rate-too-high", "exploding-gradient"),
    brings=(*STUCK, "missing-gradient", "vanishing-gradient", "diverging-loss", "loss-spike",
            "loss-oscillation", "non-finite"),
)  # fmt: skip
def killed_by_steps(rng: random.Random) -> Pair:
    """W5: a learning rate so high that ReLUs die."""
    well = rng.choice([table, table, images])(
        rng, act="relu", norm="", optimizer=rng.choice(OPTIMIZERS)
    )
    return well.but(rate=well.rate * rng.choice([30, 100, 300])), well


@sickness(
    "dead-relu",
    proofs.shows(proofs.dead, 0.4, "the share of dead units"),
    equals=("init-scale",),
    brings=(*STUCK, "missing-gradient", "vanishing-gradient", "collapsed-activation"),
)
def born_dead(rng: random.Random) -> Pair:
    """Biases far below what the inputs can lift."""
    well = table(rng, act="relu", init="he", depth=rng.choice([1, 2]))
    return well.with_faults(hidden_bias=-rng.uniform(3.0, 8.0)), well


@sickness(
    "dead-relu",
    proofs.shows(proofs.dead, 0.4, "the share of dead units"),
    equals=("exploding-gradient", "loss-spike", "learning-rate-too-high"),
    brings=(*STUCK, "missing-gradient", "vanishing-gradient", "diverging-loss", "non-finite"),
)
def killed_by_a_batch(rng: random.Random) -> Pair:
    """One broken batch, and units that never fire again."""
    well = table(rng, act="relu", optimizer=rng.choice(["sgd", "momentum"]))
    size = rng.choice([100.0, 1000.0])
    return well.with_faults(bad_batch_at=rng.uniform(0.2, 0.4), bad_batch_size=size), well


@sickness(
    "saturated-activation",
    proofs.all_of(proofs.slowed, proofs.shows(proofs.saturated, 0.55, "the share of flat inputs")),
    equals=("init-scale",),
    brings=(*STUCK, "vanishing-gradient", "exploding-gradient", "initial-loss", "dead-relu",
            "loss-oscillation"),
)  # fmt: skip
def wide_tanh(rng: random.Random) -> Pair:
    """W8: tanh layers whose weights are far too large."""
    sick = table(
        rng, data=rng.choice(["digits", "mixed"]), act=rng.choice(["tanh", "tanh", "sigmoid"]),
        depth=rng.choice([2, 3, 5, 8]), width=rng.choice([64, 128, 256]), init="normal",
        init_std=rng.choice([0.7, 1.0, 2.0]),
    )  # fmt: skip
    return sick, sick.but(init="xavier", depth=min(3, sick.depth), act="tanh", optimizer="adam")


@sickness(
    "saturated-activation",
    proofs.all_of(proofs.slowed, proofs.shows(proofs.saturated, 0.55, "the share of flat inputs")),
    equals=("learning-rate-too-high",),
    brings=(*STUCK, "vanishing-gradient", "exploding-gradient", "loss-oscillation",
            "diverging-loss", "loss-spike", "noisy-gradient", "missing-gradient"),
)  # fmt: skip
def driven_flat(rng: random.Random) -> Pair:
    """W8: steps so long that tanh layers end where they are flat."""
    well = table(
        rng, data=rng.choice(["digits", "mixed"]), act="tanh", depth=rng.choice([2, 3]),
        init="xavier", norm="",
    )  # fmt: skip
    return well.but(rate=well.rate * rng.choice([30, 100, 300])), well


@sickness(
    "collapsed-activation",
    proofs.all_of(proofs.slowed, proofs.shows(proofs.shrinking, 100, "the ratio of spreads")),
    equals=("init-scale", "vanishing-gradient"),
    brings=(*STUCK, "missing-gradient"),
)
def fading_signal(rng: random.Random) -> Pair:
    """W7, W8: each layer passes on a part of what it was given."""
    how = rng.choice(["default", "normal"])
    sick = table(
        rng, data=rng.choice(["digits", "mixed"]), act=rng.choice(["tanh", "relu"]),
        depth=rng.choice([10, 12]) if how == "default" else rng.choice([5, 8]),
        width=rng.choice([64, 128]), init=how, init_std=rng.choice([0.01, 0.02]),
        optimizer=rng.choice(["sgd", "momentum"]),
    )  # fmt: skip
    return sick, sick.but(init="he" if sick.act == "relu" else "xavier", rate=0.3 * sick.rate)


@sickness(
    "not-zero-centred",
    proofs.all_of(
        proofs.slowed,
        lambda sick, well: "" if sick.gain() < 0.5 else "it learns",
        proofs.shows(lambda run: run.end.offset, 2, "mean over spread of the sigmoids"),
    ),
    # Sigmoids less a half learn hardly better, sigmoids four times as steep learn well: the harm
    # is done by their small slope, and what is not centred is a true remark beside it.
    equals=("vanishing-gradient",),
    brings=("underfitting", "loss-plateau", "constant-prediction", "collapsed-activation"),
)
def all_positive(rng: random.Random) -> Pair:
    """W4: hidden sigmoids, whose outputs are all above zero."""
    sick = table(
        rng, act="sigmoid", depth=rng.choice([2, 3, 4]), norm="", init="xavier",
        optimizer=rng.choice(["sgd", "momentum"]),
    )  # fmt: skip
    return sick, sick.but(act="tanh")
