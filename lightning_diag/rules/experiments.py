"""Which experiment tells two possible causes apart."""

from __future__ import annotations

_TENTH = "Train again with a tenth of the learning rate and nothing else changed"
_FEW = "Train on 20 samples alone, with dropout and weight decay off"

EXPERIMENTS: dict[frozenset[str], str] = {
    frozenset({"learning-rate-too-high", "init-scale"}): (
        f"{_TENTH}: if it is gone, the rate was too high for good weights; if it is there from the "
        "first steps again, it is the initial weights."
    ),
    frozenset({"exploding-gradient", "init-scale"}): (
        "Look at the first watched step of a fresh run with a learning rate of 0: what is there "
        "already comes from the initial weights."
    ),
    frozenset({"init-scale", "unnormalised-input"}): (
        "Standardise the inputs and keep the initial weights: if it is gone, it was the inputs."
    ),
    frozenset({"learning-rate-too-high", "noisy-gradient"}): (
        "Train again with a batch four times as large at the same learning rate: less of it means "
        "noise, as much of it means the rate."
    ),
    frozenset({"learning-rate-too-high", "loss-mismatch"}): (
        f"{_TENTH}: a loss that then falls, but to nothing of use, is the wrong one."
    ),
    frozenset({"learning-rate-too-high", "suspicious-labels"}): (
        f"{_FEW}, and a tenth of the learning rate: a network that learns them by heart had the "
        "rate too high, or labels without a pattern for all the others."
    ),
    frozenset({"learning-rate-too-low", "suspicious-labels"}): (
        f"{_FEW}, and ten times the learning rate: if their loss falls to 0 within some hundred "
        "steps and that of the whole set does not, look at the labels."
    ),
    frozenset({"over-regularisation", "learning-rate-too-low"}): (
        "Train again with dropout and weight decay off: if the loss falls, it was the penalty."
    ),
    frozenset({"over-regularisation", "suspicious-labels"}): (
        f"{_FEW}: if their loss falls to 0, turn the penalty off for the whole set too; if that "
        "changes nothing, look at the labels."
    ),
    frozenset({"class-imbalance", "dead-relu"}): (
        "Train again on batches with all classes equally often "
        "(`torch.utils.data.WeightedRandomSampler`): if the prediction stays constant, the units "
        "are to blame."
    ),
    frozenset({"train-validation-shift", "batch-norm-gap"}): (
        "Validate on the training set, in evaluation mode: if it is as bad there, it is the "
        "statistics of batch norm; if it is good, the two sets differ."
    ),
    frozenset({"train-validation-shift", "suspicious-labels"}): (
        "Hold back a tenth of the training set and validate on it: if it is as bad there, it is "
        "the labels; if it is good, the two sets differ."
    ),
}
"""Two codes to what tells them apart, where something better is known than `one_alone`."""


def experiment(cause: str, rival: str, effect: str) -> str:
    """Return what to try in order to tell two possible causes of a problem apart."""
    return EXPERIMENTS.get(frozenset({cause, rival})) or one_alone(cause, rival, effect)


def one_alone(cause: str, rival: str, effect: str) -> str:
    """Return the experiment that always tells: mend one thing, and nothing else.

    Example:
        >>> one_alone("init-scale", "symmetric-init", "loss-plateau")[:58]
        'Mend init-scale alone and train as long again: if loss-pla'
    """
    return (
        f"Mend {cause} alone and train as long again: if {effect} is gone, that was it; if it is "
        f"back, it was {rival}."
    )
