"""Sick runs: learning rate, initial weights, the course of the loss."""

from __future__ import annotations

import math
import random

from . import proofs
from .bases import anything, images, regression, sequences, table
from .cases import sickness
from .recipe import Recipe
from .train import Outcome

Pair = tuple[Recipe, Recipe]
WILD = (
    "exploding-gradient", "non-finite", "dead-relu", "saturated-activation", "diverging-loss",
    "loss-oscillation", "loss-spike", "loss-plateau", "underfitting", "constant-prediction",
    "vanishing-gradient", "missing-gradient", "noisy-gradient", "batch-norm-gap",
)  # fmt: skip
STUCK = ("loss-plateau", "underfitting", "constant-prediction", "learning-rate-too-low")


@sickness("learning-rate-too-high", proofs.harmed, brings=WILD)
def too_high(rng: random.Random) -> Pair:
    """Steps 30 to 3,000 times too long."""
    well = anything(rng)
    return well.but(rate=well.rate * rng.choice([30, 100, 300, 3000])), well


@sickness(
    "learning-rate-too-high",
    proofs.harmed,
    equals=("diverging-loss", "loss-oscillation"),
    brings=WILD,
)
def just_too_high(rng: random.Random) -> Pair:
    """Steps 10 to 30 times too long."""
    well = rng.choice([table, images, sequences])(rng)
    return well.but(rate=well.rate * rng.uniform(10, 30)), well


@sickness("learning-rate-too-low", proofs.slowed, equals=("underfitting",), brings=STUCK)
def too_low(rng: random.Random) -> Pair:
    """Steps 300 to 100,000 times too short."""
    well = anything(rng)
    return well.but(rate=well.rate * rng.choice([3e-3, 1e-3, 1e-4, 1e-5])), well


@sickness(
    "symmetric-init",
    proofs.harmed,
    equals=("init-scale",),
    brings=(*STUCK, "missing-gradient", "vanishing-gradient", "collapsed-activation", "dead-relu"),
)
def all_alike(rng: random.Random) -> Pair:
    """C5: weights that start at zero, or equal."""
    well = rng.choice([table, images, regression])(rng, norm="")
    easy = {"moons": "digits", "blobs": "mixed", "wine": "digits", "linear": "friedman"}
    well = well.but(data=easy.get(well.data, well.data))
    return well.with_faults(constant_weights=rng.choice([0.0, 0.0, 0.01, 0.5 / well.width])), well


@sickness(
    "init-scale",
    proofs.slowed,
    equals=("initial-loss",),
    brings=(*WILD, "learning-rate-too-high"),
)
def one_layer_too_large(rng: random.Random) -> Pair:
    """C6: the last layer from N(0, 10) or so, the others as they should be."""
    well = rng.choice([table, images])(rng)
    return well.with_faults(last_weights=rng.choice([3.0, 10.0, 30.0])), well


@sickness(
    "init-scale",
    proofs.slowed,
    equals=("exploding-gradient", "saturated-activation", "initial-loss"),
    brings=(*WILD, "learning-rate-too-high"),
)
def all_too_large(rng: random.Random) -> Pair:
    """All weights several times too large."""
    well = table(rng, depth=rng.choice([2, 3, 4]), init="he", norm="")
    return well.with_faults(weight_gain=rng.choice([4.0, 6.0, 10.0])), well


@sickness(
    "init-scale",
    proofs.slowed,
    equals=("collapsed-activation", "vanishing-gradient"),
    brings=(*STUCK, "missing-gradient"),
)
def all_too_small(rng: random.Random) -> Pair:
    """All weights far too small."""
    well = table(
        rng, depth=rng.choice([3, 4, 5]), init="he", norm="", act=rng.choice(["relu", "tanh"]),
        optimizer=rng.choice(["sgd", "momentum"]),
    )  # fmt: skip
    return well.with_faults(weight_gain=rng.choice([0.01, 0.03, 0.1])), well


@sickness(
    "initial-loss",
    lambda sick, well: (
        "" if sick.start.loss >= 2.5 * well.start.loss
        else f"the first loss is {sick.start.loss:.3g}, twin {well.start.loss:.3g}"
    ),
    equals=("init-scale",),
    brings=("exploding-gradient", "learning-rate-too-high", "class-imbalance", "loss-oscillation",
            "constant-prediction", "dead-relu"),
)  # fmt: skip
def biased_start(rng: random.Random) -> Pair:
    """A network that is sure of one class before it has seen anything."""
    well = rng.choice([table, images, sequences])(rng)
    return well.with_faults(output_bias=rng.uniform(6.0, 30.0)), well


@sickness(
    "initial-loss",
    lambda sick, well: (
        "" if sick.start.loss >= 2.5 * well.start.loss
        else f"the first loss is {sick.start.loss:.3g}, twin {well.start.loss:.3g}"
    ),
    equals=("init-scale",),
    brings=("exploding-gradient", "learning-rate-too-high", "loss-oscillation", "dead-relu"),
)  # fmt: skip
def loud_head(rng: random.Random) -> Pair:
    """Logits that start at several times their proper size."""
    well = rng.choice([table, images])(rng)
    return well.with_faults(last_weights=rng.uniform(1.5, 4.0)), well


def _bounces(sick: Outcome, well: Outcome) -> str:
    """A tenth of the first loss fills a fifth of its chart, which nobody overlooks."""
    if proofs.is_lost(sick) or max(sick.last, sick.first / 3) > 3 * sick.losses[0]:
        return "it diverges"
    swing, usual = proofs.swing(sick), proofs.swing(well)
    is_swinging = swing >= 3 * usual and swing >= 0.1 and proofs.stalled(sick) >= 0.7
    return "" if is_swinging else f"the loss swings by {swing:.3g} of the first, twin {usual:.3g}"


@sickness(
    "loss-oscillation",
    proofs.all_of(proofs.slowed, _bounces),
    equals=("learning-rate-too-high",),
    brings=WILD,
)
def back_and_forth(rng: random.Random) -> Pair:
    """Steps that jump from one side of the valley to the other."""
    well = table(
        rng, data=rng.choice(["digits", "mixed"]), optimizer=rng.choice(["momentum", "adam"]),
        act="tanh", depth=rng.choice([2, 3]), batch_size=rng.choice([64, 128]),
        steps=rng.choice([400, 600, 1000]),
    )  # fmt: skip
    return well.but(rate=well.rate * rng.uniform(30.0, 80.0)), well


@sickness(
    "loss-oscillation",
    proofs.all_of(proofs.slowed, _bounces),
    equals=("learning-rate-too-high",),
    brings=WILD,
)
def heavy_ball(rng: random.Random) -> Pair:
    """So much momentum that the weights roll past the minimum and back."""
    well = regression(
        rng, optimizer="momentum", act=rng.choice(["relu", "tanh"]), batch_size=128,
        steps=rng.choice([400, 600, 1000]),
    )  # fmt: skip
    return well.but(rate=3 * well.rate).with_faults(momentum=rng.uniform(0.995, 0.999)), well


@sickness(
    "diverging-loss",
    proofs.all_of(
        proofs.shows(proofs.given_back, 0.5, "what the loss gave back"),
        proofs.shows(proofs.finite_steps, 64, "the number of steps before it is lost"),
    ),
    equals=("learning-rate-too-high", "exploding-gradient", "non-finite", "loss-spike"),
    brings=WILD,
)
def flies_away(rng: random.Random) -> Pair:
    """Warm-up to steps that are too long: what was learned on the way is lost again."""
    well = regression(
        rng, optimizer=rng.choice(["sgd", "momentum"]), act=rng.choice(["relu", "gelu", "tanh"]),
        schedule="warmup",
    )  # fmt: skip
    return well.but(rate=well.rate * rng.uniform(10.0, 40.0)), well


@sickness(
    "diverging-loss",
    proofs.all_of(
        proofs.shows(proofs.given_back, 0.5, "what the loss gave back"),
        proofs.shows(proofs.finite_steps, 64, "the number of steps before it is lost"),
    ),
    equals=("loss-mismatch", "learning-rate-too-high", "exploding-gradient", "non-finite"),
    brings=WILD,
)
def climbs(rng: random.Random) -> Pair:
    """The sign of the loss is wrong, so that training makes it worse."""
    well = rng.choice([table, regression])(rng, optimizer=rng.choice(["adam", "sgd", "momentum"]))
    return well.with_faults(ascends=1.0), well


def _learned_nothing(sick: Outcome, well: Outcome) -> str:
    chance = {"parity": 0.5, "noise": 0.2}[sick.recipe.data]
    if sick.end.held_score < chance + 0.08 and sick.last > 0.9 * math.log(1 / chance):
        return ""
    return f"held-out score {sick.end.held_score:.2f}, loss {sick.last:.3g}"


@sickness(
    "loss-plateau",
    _learned_nothing,
    equals=("suspicious-labels", "underfitting"),
    brings=("constant-prediction", "overfitting"),
)
def too_hard(rng: random.Random) -> Pair:
    """Parity of many bits, which no small network learns in time."""
    sick = table(rng, data="parity", depth=rng.choice([1, 2]), act=rng.choice(["relu", "tanh"]))
    sick = sick.but(rate=0.3 * sick.rate, steps=400)
    return sick, sick.but(data="moons")


@sickness(
    "loss-plateau",
    _learned_nothing,
    equals=("suspicious-labels", "underfitting"),
    brings=("constant-prediction", "overfitting", "noisy-gradient"),
)
def nothing_to_learn(rng: random.Random) -> Pair:
    """Inputs that say nothing of the target."""
    sick = table(rng, data="noise", steps=400)
    return sick.but(rate=0.3 * sick.rate), sick.but(data="mixed")


@sickness(
    "loss-spike",
    proofs.all_of(
        proofs.shows(proofs.spike, 5, "the largest loss over those before"), proofs.set_back
    ),
    equals=("exploding-gradient",),
    brings=("dead-relu", "diverging-loss", "loss-plateau", "constant-prediction", "non-finite",
            "learning-rate-too-high", "unnormalised-input", "underfitting", "missing-gradient",
            "vanishing-gradient", "batch-norm-gap", "loss-oscillation"),
)  # fmt: skip
def broken_batch(rng: random.Random) -> Pair:
    """One batch among hundreds that is a hundred times too loud."""
    well = rng.choice([table, images, regression])(rng)
    size = rng.choice([20.0, 100.0, 300.0])
    return well.with_faults(bad_batch_at=rng.uniform(0.3, 0.8), bad_batch_size=size), well
