"""Sick runs: how well the model fits, and how the training is set up."""

from __future__ import annotations

import random

from . import proofs
from .bases import images, regression, table, words
from .cases import sickness
from .recipe import Recipe
from .train import Outcome

Pair = tuple[Recipe, Recipe]
STUCK = ("loss-plateau", "constant-prediction", "learning-rate-too-low")


def _memorises(sick: Outcome, well: Outcome) -> str:
    gap = sick.end.score - sick.end.held_score
    held = sick.held_losses[-1] if sick.held_losses else 0.0
    if gap >= 0.15 and held >= 2 * sick.last and well.end.held_score > sick.end.held_score + 0.05:
        return ""
    return (
        f"the scores differ by {gap:.2f}, held-out loss {held:.3g}, training loss {sick.last:.3g}"
    )


@sickness("overfitting", _memorises, brings=("suspicious-labels", "metric-loss-disagreement"))
def few_samples(rng: random.Random) -> Pair:
    """A large network, few samples, and some wrong labels."""
    well = rng.choice([table, images])(rng, validates=True, logs_metric=True, steps=400)
    well = well.but(data="digits" if well.data in ("wine", "blobs") else well.data)
    sick = well.but(samples=rng.choice([40, 80, 120]), width=max(well.width, 32), batch_size=16)
    sick = sick.but(width=16) if sick.net == "resnet" else sick
    return sick.with_faults(shuffled_labels=rng.choice([0.0, 0.2, 0.4])), well


@sickness("overfitting", _memorises)
def noisy_regression(rng: random.Random) -> Pair:
    """A large network learns the noise of a small data set by heart."""
    data = rng.choice(["diabetes", "friedman"])
    well = regression(rng, validates=True, depth=2, width=64, data=data)
    sick = well.but(samples=rng.choice([40, 60]), width=256, batch_size=16, steps=500)
    return sick.but(optimizer="adam", rate=rng.choice([0.5, 1.0])), well


def _learns_a_little(sick: Outcome, well: Outcome) -> str:
    """What learns nothing at all does not underfit: its one unit is dead, or flat.

    Nor may a part of it be: with one unit of two dead from the start, two things are wrong, and
    functions that cannot die learn a good deal more.
    """
    if not sick.gain() >= 0.1:
        return "it learns nothing"
    return "" if proofs.dead(sick) < 0.2 else "units are dead as well"


@sickness(
    "underfitting", proofs.all_of(proofs.harmed, _learns_a_little), equals=("loss-plateau",),
    brings=STUCK,
)  # fmt: skip
def too_small(rng: random.Random) -> Pair:
    """One or two units where dozens are needed."""
    well = table(
        rng, data=rng.choice(["digits", "mixed"]), act=rng.choice(["relu", "tanh"]),
        depth=rng.choice([1, 2]), validates=True, logs_metric=True, steps=1000,
    )  # fmt: skip
    return well.but(width=rng.choice([1, 2])), well


@sickness("underfitting", proofs.harmed, equals=("loss-plateau",), brings=STUCK)
def too_straight(rng: random.Random) -> Pair:
    """A linear model of something that is not linear."""
    well = table(
        rng, data="mixed", depth=2, width=128, validates=True, logs_metric=True, steps=1000,
        optimizer="adam", rate=2.0,
    )  # fmt: skip
    return well.but(depth=0), well


@sickness(
    "over-regularisation",
    proofs.harmed,
    brings=(*STUCK, "underfitting", "collapsed-activation", "vanishing-gradient", "dead-relu",
            "missing-gradient"),
)  # fmt: skip
def heavy_decay(rng: random.Random) -> Pair:
    """Weight decay that keeps the weights near zero."""
    well = rng.choice([table, images])(rng, norm="", validates=True)
    well = well.but(steps=max(well.steps, 400))
    decay = {"sgd": 0.1, "momentum": 0.1, "adam": 0.3, "adamw": 50.0}[well.optimizer]
    return well.but(weight_decay=decay * rng.uniform(1.0, 4.0)), well


@sickness("over-regularisation", proofs.harmed, brings=(*STUCK, "underfitting", "noisy-gradient"))
def heavy_dropout(rng: random.Random) -> Pair:
    """Nine units in ten switched off."""
    well = table(
        rng, data=rng.choice(["digits", "mixed"]), depth=rng.choice([2, 3]), validates=True
    )
    well = well.but(rate=0.3 * well.rate, steps=600)
    return well.but(dropout=rng.uniform(0.85, 0.95)), well


def _gap(sick: Outcome, well: Outcome) -> str:
    """Running statistics, or those of small batches, cost against those of all the data."""

    def gap(run: Outcome) -> float:
        return max(run.end.eval_loss, run.end.batch_loss) / run.end.loss

    if gap(sick) >= 1.5 and gap(sick) >= 1.2 * gap(well):
        return ""
    return f"other statistics cost {gap(sick):.2f}, twin {gap(well):.2f}"


@sickness("batch-norm-gap", _gap, brings=("overfitting", "train-validation-shift"))
def slow_statistics(rng: random.Random) -> Pair:
    """W14: running statistics that follow too slowly."""
    well = rng.choice([table, images])(rng, norm="bn", validates=True, optimizer="adam")
    well = well.but(net="mlp" if well.net == "resnet" else well.net)
    well = well.but(steps=rng.choice([300, 600, 1000]))
    return well.with_faults(batch_norm_momentum=rng.choice([0.0001, 0.001, 0.003])), well


@sickness(
    "batch-norm-gap", _gap, brings=("overfitting", "train-validation-shift", "noisy-gradient")
)
def last_batch_only(rng: random.Random) -> Pair:
    """W14: small batches, and a momentum of 0.99 from a library where that means 0.01."""
    well = rng.choice([table, images])(rng, norm="bn", validates=True)
    well = well.but(net="mlp" if well.net == "resnet" else well.net)
    sick = well.but(batch_size=rng.choice([2, 3]), steps=rng.choice([300, 600, 1000]))
    return sick.with_faults(batch_norm_momentum=0.99), well


@sickness(
    "batch-norm-gap",
    # Layer norm learns from the same batches, so that batch norm is the cause and noise is not;
    # what is lost shows in either mode, so that no gap between them need be left at the end.
    proofs.slowed,
    brings=("overfitting", "train-validation-shift", "noisy-gradient"),
)
def two_by_two(rng: random.Random) -> Pair:
    """W14: batch norm over two samples; layer norm does better with as few."""
    sick = table(rng, norm="bn", validates=True, depth=rng.choice([2, 3]), batch_size=2, steps=400)
    sick = sick.but(optimizer=rng.choice(["sgd", "adam"]), rate=0.2 * sick.rate)
    return sick, sick.but(norm="ln")


@sickness(
    "metric-loss-disagreement",
    lambda sick, well: "" if sick.gain() > 0.5 else "it does not learn",
    brings=("train-validation-shift", "overfitting"),
)
def wrong_metric(rng: random.Random) -> Pair:
    """An accuracy that is worked out against the wrong targets."""
    well = rng.choice([table, images])(rng, logs_metric=True, validates=True)
    return well.with_faults(wrong_metric=1.0), well


@sickness(
    "frozen-but-changing",
    lambda sick, well: (
        "" if any("running" in name and name.startswith("net.0") for name in sick.changed)
        else "nothing frozen changed"
    ),
    brings=("batch-norm-gap",),
)  # fmt: skip
def thawing_norm(rng: random.Random) -> Pair:
    """A frozen backbone whose batch norm goes on counting."""
    well = table(rng, net="frozen-backbone", data="digits", norm="bn", depth=2, act="relu")
    return well.but(net="thawing-norm"), well


@sickness(
    "eval-mode-with-trainable-parameters",
    lambda sick, well: "",
    brings=("batch-norm-gap", "overfitting"),
)
def still_evaluating(rng: random.Random) -> Pair:
    """P48: `.eval()` after a while, and never `.train()` again."""
    well = table(rng, norm=rng.choice(["bn", ""]))
    if not well.norm:
        well = well.but(dropout=0.3)
    return well.with_faults(eval_mode_since=rng.choice([0.0, 0.3, 0.6])), well


@sickness(
    "dead-embedding",
    lambda sick, well: "",
    brings=("overfitting", "suspicious-labels", "loss-plateau", "underfitting", "noisy-gradient"),
)
def unreached_rows(rng: random.Random) -> Pair:
    """An index that leaves most of the vocabulary without a word: all beyond a point are one."""
    well = words(rng)
    return well.with_faults(clamped_words=rng.choice([20.0, 40.0])), well


@sickness(
    "embedding-collapse", proofs.slowed, equals=("init-scale", "constant-prediction"),
    brings=(*STUCK, "underfitting", "initial-loss"),
)  # fmt: skip
def alike_rows(rng: random.Random) -> Pair:
    """Vectors that differ little against what they share."""
    well = words(rng)
    return well.with_faults(alike_embedding=rng.choice([0.05, 0.1, 0.2])), well


@sickness(
    "slow-dataloader",
    proofs.shows(lambda run: run.wait_share, 0.6, "the share of waiting"),
)
def slow_loader(rng: random.Random) -> Pair:
    """A loader that takes longer than the step."""
    well = rng.choice([table, regression, words])(rng, steps=150)
    return well.with_faults(slow_loader=rng.uniform(0.01, 0.02)), well
