"""Sick runs: data, outputs and losses that do not go together."""

from __future__ import annotations

import random

from . import proofs
from .bases import anything, images, regression, sequences, table
from .cases import sickness
from .recipe import Recipe
from .train import Outcome

Pair = tuple[Recipe, Recipe]
STUCK = ("loss-plateau", "underfitting", "constant-prediction", "learning-rate-too-low")
LOUD = (
    "exploding-gradient", "learning-rate-too-high", "dead-relu", "saturated-activation",
    "initial-loss", "diverging-loss", "loss-oscillation", "loss-spike", "non-finite",
    "loss-plateau", "underfitting", "constant-prediction", "vanishing-gradient",
    "missing-gradient", "noisy-gradient",
)  # fmt: skip


@sickness("unnormalised-input", proofs.slowed, brings=LOUD)
def raw_scale(rng: random.Random) -> Pair:
    """C7: inputs from 0 to 255, or in thousands."""
    well = rng.choice([table, images, regression])(rng, norm="")
    return well.with_faults(scale=rng.choice([50.0, 255.0, 1000.0])), well


@sickness("unnormalised-input", proofs.slowed, brings=LOUD)
def far_from_zero(rng: random.Random) -> Pair:
    """Inputs whose mean is many times their spread."""
    well = rng.choice([table, regression])(rng, norm="")
    return well.with_faults(offset=rng.choice([-100.0, 30.0, 100.0, 1000.0])), well


@sickness("unnormalised-input", proofs.slowed, brings=LOUD)
def mixed_units(rng: random.Random) -> Pair:
    """Some features a thousand times as large as others."""
    well = rng.choice([table, regression])(rng, norm="")
    return well.with_faults(mixed_units=rng.uniform(3.0, 6.0)), well


@sickness("unscaled-target", proofs.harmed, brings=LOUD)
def large_targets(rng: random.Random) -> Pair:
    """Targets in the thousands for a network that starts near zero."""
    well = regression(rng)
    far = {"target_scale": rng.choice([100.0, 1000.0]), "target_offset": rng.choice([0.0, 5000.0])}
    return well.with_faults(**far), well


@sickness("unscaled-target", proofs.harmed, equals=("learning-rate-too-low",), brings=LOUD)
def far_targets(rng: random.Random) -> Pair:
    """Targets whose mean is a hundred times their spread."""
    well = regression(rng)
    return well.with_faults(target_offset=rng.choice([100.0, 300.0, -200.0])), well


def _left_out(sick: Outcome, well: Outcome) -> str:
    """Rare classes are not recognised in held-out data, nor for half of the run in training.

    What is recognised in training by then was learned by heart from too few samples: batches with
    as many samples of each class (tried) answer held-out data hardly better.
    """
    lowest = sick.end.lowest_recall
    if not (lowest <= 0.3 and well.end.lowest_recall >= 0.6):
        return f"lowest recall {lowest:.2f}, twin {well.end.lowest_recall:.2f}"
    trained = min(v.lowest_train_recall for v in sick.moments[-2:])
    return "" if trained <= 0.3 else f"lowest recall in training {trained:.2f} half-way"


@sickness(
    "class-imbalance",
    _left_out,
    equals=("constant-prediction",),
    brings=("loss-plateau", "train-validation-shift", "overfitting", "noisy-gradient"),
)  # fmt: skip
def rare_classes(rng: random.Random) -> Pair:
    """One class has nearly all samples."""
    well = rng.choice([table, images])(rng, logs_metric=True)
    if well.data == "wine":
        well = well.but(data="digits")
    return well.with_faults(rare_classes=rng.choice([0.005, 0.01, 0.02, 0.04])), well


@sickness(
    "train-validation-shift",
    lambda sick, well: (
        "" if well.end.held_score - sick.end.held_score >= 0.15
        and sick.end.score - sick.end.held_score >= 0.15
        else f"held-out score {sick.end.held_score:.2f}, twin {well.end.held_score:.2f}"
    ),
    brings=("overfitting", "batch-norm-gap", "metric-loss-disagreement"),
)  # fmt: skip
def other_statistics(rng: random.Random) -> Pair:
    """Validation data that were processed in another way."""
    well = rng.choice([table, images, sequences, regression])(rng, validates=True)
    fault = rng.choice(["validation_scale", "validation_offset"])
    amount = rng.choice([0.05, 16.0, 255.0] if fault == "validation_scale" else [1.5, 3.0, -2.0])
    return well.with_faults(**{fault: amount}), well


@sickness(
    "suspicious-labels",
    lambda sick, well: (
        "" if sick.gain() < 0.15 and well.gain() > 0.25 else "labels made no difference"
    ),
    equals=("loss-plateau",),
    brings=("overfitting", "underfitting", "constant-prediction", "noisy-gradient"),
)
def shuffled_labels(rng: random.Random) -> Pair:
    """Labels that have nothing to do with their samples."""
    well = rng.choice([table, images, sequences])(rng)
    well = well.but(data="digits" if well.data in ("wine", "moons") else well.data)
    well = well.but(rate=min(well.rate, 1.0) * 0.5, depth=min(well.depth, 2), width=32)
    if well.net in ("cnn", "resnet"):
        well = well.but(width=8)
    return well.with_faults(shuffled_labels=1.0), well


@sickness(
    "output-activation-mismatch",
    proofs.harmed,
    brings=(*STUCK, "saturated-activation", "vanishing-gradient", "initial-loss",
            "metric-loss-disagreement"),
)  # fmt: skip
def softmax_twice(rng: random.Random) -> Pair:
    """Softmax, then a loss that takes the softmax itself; the harm is slow or coarse learning."""
    well = rng.choice([table, images, sequences])(rng, optimizer=rng.choice(["sgd", "adam"]))
    well = well.but(rate=0.3 * well.rate)
    return well.with_faults(out_softmax=1.0), well


@sickness(
    "output-activation-mismatch",
    proofs.harmed,
    brings=(*STUCK, "saturated-activation", "vanishing-gradient", "initial-loss",
            "class-imbalance"),
)  # fmt: skip
def sigmoid_twice(rng: random.Random) -> Pair:
    """Sigmoid, then a loss that takes the sigmoid itself."""
    well = table(rng, data=rng.choice(["labels", "cancer"]))
    return well.with_faults(out_sigmoid=1.0), well


@sickness(
    "output-activation-mismatch",
    proofs.harmed,
    equals=("unscaled-target",),
    brings=(*STUCK, "saturated-activation", "vanishing-gradient", "dead-relu", "missing-gradient"),
)
def bounded_output(rng: random.Random) -> Pair:
    """An output that cannot reach what it should."""
    well = regression(rng)
    fault = rng.choice(["out_sigmoid", "out_relu", "out_tanh"])
    if fault == "out_tanh":
        well = well.with_faults(target_scale=5.0)
    return well.with_faults(**{fault: 1.0}), well


@sickness(
    "loss-mismatch",
    proofs.harmed,
    brings=(*STUCK, "suspicious-labels"),
)
def broadcast(rng: random.Random) -> Pair:
    """Predictions in a column and targets in a row: each is compared with all."""
    well = regression(rng, depth=rng.choice([1, 2]))
    return well.with_faults(broadcast=1.0), well


@sickness(
    "loss-mismatch", proofs.harmed,
    # The loss sees one output, the accuracy all of them.
    brings=(*STUCK, "class-imbalance", "unscaled-target", "metric-loss-disagreement"),
)  # fmt: skip
def square_classes(rng: random.Random) -> Pair:
    """Squared distance to a class's number, as if classes were quantities."""
    well = table(rng, data=rng.choice(["digits", "blobs", "mixed"]))
    return well.with_faults(square_classes=1.0), well


@sickness(
    "loss-mismatch", proofs.harmed,
    equals=("output-activation-mismatch",), brings=(*STUCK, "saturated-activation"),
)  # fmt: skip
def probabilities_as_logs(rng: random.Random) -> Pair:
    """Probabilities where the loss wants their logarithms; it goes below zero."""
    well = rng.choice([table, images])(rng, optimizer="sgd", rate=0.2)
    return well.with_faults(probabilities_as_logs=1.0), well


@sickness(
    "loss-mismatch",
    proofs.harmed,
    equals=("learning-rate-too-high", "exploding-gradient"),
    brings=LOUD,
)
def summed(rng: random.Random) -> Pair:
    """A loss that grows with the batch, and the learning rate of one that does not."""
    well = rng.choice([table, regression])(rng, optimizer=rng.choice(["sgd", "momentum"]))
    return well.with_faults(sum=1.0), well


@sickness(
    "non-finite",
    proofs.shows(proofs.is_lost, 1, "what is not finite"),
    brings=("unnormalised-input", "dead-relu", "exploding-gradient", "loss-spike"),
)
def bad_arithmetic(rng: random.Random) -> Pair:
    """The logarithm of zero."""
    well = rng.choice([table, images, regression])(rng)
    return well.with_faults(log_head=1.0), well


@sickness(
    "non-finite",
    proofs.shows(proofs.is_lost, 1, "what is not finite"),
    equals=("unnormalised-input",),
    brings=("dead-relu", "exploding-gradient", "loss-spike"),
)
def bad_values(rng: random.Random) -> Pair:
    """A few samples that are not numbers, or one such batch."""
    well = rng.choice([table, images, regression])(rng)
    if rng.random() < 0.5:
        return well.with_faults(nan_input=rng.choice([0.001, 0.01])), well
    return well.with_faults(nan_batch_at=rng.uniform(0.2, 0.8)), well


@sickness(
    "constant-prediction",
    proofs.shows(proofs.alike, 20, "size over spread of the predictions"),
    equals=("unnormalised-input", "missing-gradient"),
    brings=(*STUCK, "dead-relu", "collapsed-activation", "suspicious-labels"),
)
def blind(rng: random.Random) -> Pair:
    """A loader that gives the same input for every sample."""
    well = anything(rng, samples=0)
    if well.net == "words":
        well = well.but(net="mlp", data="digits")
    return well.with_faults(blank=rng.choice([0.0, 1.0])), well
