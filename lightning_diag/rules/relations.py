"""What may explain what: the table that `causes.py` reads."""

from __future__ import annotations

from typing import Literal, NamedTuple

Side = Literal["", "behind", "before", "ahead"]
"""Where a cause must lie, seen from its effect: anywhere; nearer to the output; nearer to the input
or at the same place; nearer to the input, and that must be known."""


SUMMARIES = frozenset({"suspicious-labels", "underfitting"})
"""Problems of the run as a whole: when they were noticed says nothing of what came first."""


EXCLUDED_BY: dict[str, frozenset[str]] = {
    "over-regularisation": frozenset({"batch-norm-gap"}),
    "suspicious-labels": frozenset(
        {
            "batch-norm-gap",
            "collapsed-activation",
            "dead-embedding",
            "dead-relu",
            "diverging-loss",
            "embedding-collapse",
            "exploding-gradient",
            "init-scale",
            "learning-rate-too-high",
            "loss-mismatch",
            "loss-oscillation",
            "loss-spike",
            "missing-gradient",
            "non-finite",
            "not-zero-centred",
            "output-activation-mismatch",
            "over-regularisation",
            "parameter-not-in-optimizer",
            "saturated-activation",
            "symmetric-init",
            "unnormalised-input",
            "unscaled-target",
            "vanishing-gradient",
        }
    ),
}
"""Code of a diagnosis by exclusion to what must not be there, now or before: with it, the problem
has another explanation."""


class Relation(NamedTuple):
    """One way in which one problem brings about another."""

    cause: str
    """Code of what came first."""
    why: str
    """How it does so, as a sentence."""
    side: Side = ""
    """Where in the network the cause must lie."""
    must_lead: bool = False
    """Whether the cause must surely have begun first: the effect may as well be what caused it."""


STANDING = frozenset({"not-zero-centred"})
"""Properties of a network that are there all the time: that they came first says nothing."""

STANDSTILLS = frozenset({"constant-prediction", "loss-plateau"})
"""Problems that are an absence, and take a while to be one: what began in the first half of that
time may be what kept it up."""

FLEETING = frozenset({"learning-rate-too-low"})
"""Problems that explain nothing that is still there when they are gone."""

ORIGINS = frozenset(
    {
        "class-imbalance",
        "dead-embedding",
        "eval-mode-with-trainable-parameters",
        "init-scale",
        "loss-mismatch",
        "output-activation-mismatch",
        "over-regularisation",
        "parameter-not-in-optimizer",
        "suspicious-labels",
        "symmetric-init",
        "train-validation-shift",
        "unnormalised-input",
        "unscaled-target",
    }
)
"""Problems of the data, of the set-up or of the first weights. Training does not bring them about,
so they came first whenever they were noticed."""

_SCALES_STEPS = "It scales every gradient, and with it every step."
_NOTHING_PASSES = "No gradient passes what is always zero."
_OVERSHOOTS = "Steps that overshoot throw the weights to where the loss is worse."
_PART_OF_STEPS = "The pull of weight decay is part of each step, and dropout scales up gradients."
_SCALED_UP = "What dropout leaves is scaled up, and gradients with it."
_TO_ZERO = "Decay takes weights to zero, and dropout makes large steps."
_IN_PARTS = "With dropout each step trains another part of the network."
_TOO_FAR = "Large steps push units to where no input moves them."

GROWN = Relation("exploding-gradient", "Outputs that grew with each layer are far off.")
"""What explains a high first loss where growth with depth was seen before training. There, the loss
explains no growth: in a run, `exploding-gradient` means gradients that grow with the steps."""

RELATIONS: dict[str, tuple[Relation, ...]] = {
    "non-finite": (
        Relation("exploding-gradient", "One such step takes the weights to where numbers end."),
        Relation("learning-rate-too-high", "Weights that are thrown about grow until they end."),
        Relation("diverging-loss", "A loss that keeps growing overflows in the end."),
        Relation("unnormalised-input", "Huge or missing inputs become infinity or NaN."),
        Relation("loss-mismatch", "Outside of what a loss is made for, it takes logs of 0."),
        Relation("unscaled-target", "The square of a huge error is larger still."),
        Relation("init-scale", "Outputs that grow from layer to layer overflow."),
        Relation("over-regularisation", _SCALED_UP),
    ),
    "diverging-loss": (
        Relation("exploding-gradient", "Each step is larger than the one before."),
        Relation("learning-rate-too-high", _OVERSHOOTS),
        Relation("loss-spike", "One leap left the weights where the loss falls no more."),
        Relation("loss-mismatch", "Such a loss has no lower end, or pulls the wrong way."),
        Relation("init-scale", "Outputs far too large make the first steps far too large."),
        Relation("unnormalised-input", _SCALES_STEPS),
        Relation("unscaled-target", _SCALES_STEPS),
        Relation(
            "eval-mode-with-trainable-parameters",
            "Batch norm with old statistics does not normalise.",
        ),
        Relation("over-regularisation", _SCALED_UP),
    ),
    "loss-spike": (
        Relation("exploding-gradient", "One step along such a gradient undoes many others."),
        Relation("learning-rate-too-high", _OVERSHOOTS),
        Relation("noisy-gradient", "Single batches pull far from where the others pull."),
        Relation("unnormalised-input", _SCALES_STEPS),
        Relation("rank-divergence", "The gradient is a mean over models that differ."),
        Relation("class-imbalance", "A sample of a rare class is a surprise each time."),
        Relation("over-regularisation", _SCALED_UP),
    ),
    "loss-oscillation": (
        Relation("learning-rate-too-high", "Steps overshoot the valley, to and fro."),
        Relation("exploding-gradient", "Single steps throw the loss up, and others bring it back."),
        Relation("noisy-gradient", "Each batch pulls in a direction of its own."),
        Relation("unnormalised-input", "Mixed scales make a narrow valley."),
        Relation("batch-norm-gap", "What a sample gets depends on who shares its batch."),
        Relation("over-regularisation", _IN_PARTS),
    ),
    "exploding-gradient": (
        Relation("learning-rate-too-high", "Weights that overshoot meet ever steeper slopes."),
        Relation("init-scale", "Each layer multiplies the gradient by its weights."),
        Relation("initial-loss", "First predictions that are far off make huge first gradients."),
        Relation("loss-mismatch", _SCALES_STEPS),
        Relation("unnormalised-input", _SCALES_STEPS),
        Relation("unscaled-target", _SCALES_STEPS),
        Relation("class-imbalance", "A rare class pulls hard where the others are learnt."),
        Relation("over-regularisation", _SCALED_UP),
    ),
    "learning-rate-too-high": (
        Relation("init-scale", "The same step is huge for tiny weights, or on steep slopes."),
        Relation("loss-mismatch", _SCALES_STEPS),
        Relation("unnormalised-input", _SCALES_STEPS),
        Relation("unscaled-target", _SCALES_STEPS),
        Relation("over-regularisation", _PART_OF_STEPS),
    ),
    "learning-rate-too-low": (
        Relation("vanishing-gradient", "Steps are small because gradients are."),
        Relation("missing-gradient", "Without a gradient there is no step."),
        Relation("dead-relu", _NOTHING_PASSES),
        Relation("saturated-activation", "A flat function passes no gradient."),
        Relation("collapsed-activation", "What shrinks the signal shrinks the gradient."),
        Relation("symmetric-init", "Zero weights let no gradient through."),
        Relation("init-scale", "The same step is nothing to huge weights."),
        Relation("unnormalised-input", "Tiny inputs make tiny gradients."),
        Relation(
            "output-activation-mismatch", "An output that is squashed twice has weak gradients."
        ),
        Relation("unscaled-target", _SCALES_STEPS),
    ),
    "noisy-gradient": (
        Relation("learning-rate-too-high", "Large steps keep the weights where batches disagree."),
        Relation("suspicious-labels", "Labels without a pattern pull each batch elsewhere."),
        Relation("unnormalised-input", "What all samples share drowns what tells them apart."),
        Relation("batch-norm-gap", "What a sample gets depends on who shares its batch."),
        Relation("class-imbalance", "A rare class pulls elsewhere when it comes."),
        Relation("over-regularisation", _IN_PARTS),
    ),
    "dead-relu": (
        Relation("exploding-gradient", _TOO_FAR),
        Relation("learning-rate-too-high", _TOO_FAR),
        Relation("init-scale", "Units that start far below zero never fire."),
        Relation("symmetric-init", "Zero weights put out zero, and a ReLU passes nothing on."),
        Relation("unnormalised-input", "Inputs of one sign and large size silence whole units."),
        Relation("initial-loss", "First predictions that are far off make huge first steps."),
        Relation("unscaled-target", "Targets far away make huge first steps."),
        Relation("embedding-collapse", "What all vectors share keeps units on or off for all."),
        Relation("dead-embedding", "Inputs that fall together on one row switch few units on."),
        Relation(
            "collapsed-activation",
            "Where all samples look alike, a unit is on or off for all of them.",
            "ahead",
        ),
        Relation("over-regularisation", _TO_ZERO),
    ),
    "saturated-activation": (
        Relation("exploding-gradient", _TOO_FAR),
        Relation("learning-rate-too-high", _TOO_FAR),
        Relation("init-scale", "Large weights make large inputs of the function."),
        Relation("unnormalised-input", "Large inputs make large inputs of the function."),
        Relation(
            "vanishing-gradient",
            "Layers that learn alone, from what tells nothing, end where functions are flat.",
            must_lead=True,
        ),
        Relation("over-regularisation", _SCALED_UP),
    ),
    "collapsed-activation": (
        Relation("dead-relu", "What is always zero carries no signal on.", "before"),
        Relation("symmetric-init", "Units that are all alike carry one signal."),
        Relation("init-scale", "Small weights shrink the signal at each layer."),
        Relation("over-regularisation", "Weight decay shrinks the weights, and they the signal."),
        Relation("learning-rate-too-high", _TOO_FAR),
    ),
    "not-zero-centred": (
        Relation("unnormalised-input", "Inputs with an offset have outputs with one."),
    ),
    "vanishing-gradient": (
        Relation("saturated-activation", "A flat function passes no gradient.", "behind"),
        Relation("dead-relu", _NOTHING_PASSES, "behind"),
        Relation("collapsed-activation", "What shrinks the signal shrinks the gradient."),
        Relation("init-scale", "Each layer multiplies the gradient by its weights."),
        Relation("unnormalised-input", "Tiny inputs make tiny gradients of the first weights."),
        Relation("over-regularisation", "Weight decay shrinks the weights, and they the gradient."),
        Relation("learning-rate-too-high", _TOO_FAR),
        Relation("output-activation-mismatch", "A flat output passes no gradient."),
        Relation("symmetric-init", "Zero weights let no gradient through."),
        Relation(
            "batch-norm-gap", "Over two samples batch norm gives 1 and -1, whatever comes in."
        ),
    ),
    "missing-gradient": (
        Relation("dead-relu", _NOTHING_PASSES, "behind"),
        Relation("vanishing-gradient", "What shrinks at each layer ends at zero."),
        Relation("collapsed-activation", "What shrinks at each layer ends at zero."),
        Relation("symmetric-init", "Zero weights let no gradient through."),
        Relation("learning-rate-too-high", _TOO_FAR),
        Relation("output-activation-mismatch", "A flat or dead output passes no gradient."),
        Relation("exploding-gradient", _TOO_FAR),
        Relation("initial-loss", "First predictions that are far off make huge first steps."),
        Relation("init-scale", "Large weights push units to where no input moves them."),
        Relation("unnormalised-input", "Large inputs push units to where no gradient passes."),
        Relation("over-regularisation", _TO_ZERO),
    ),
    "initial-loss": (
        Relation("output-activation-mismatch", "The loss is given what it is not made for."),
        Relation("loss-mismatch", "The loss measures something else, or adds up samples."),
        Relation("init-scale", "Large last weights are confident, and wrong, from the start."),
        Relation("unscaled-target", "The loss of far targets is far from what it may become."),
        Relation("unnormalised-input", "Large inputs make large outputs."),
        Relation(
            "over-regularisation", "What dropout leaves is scaled up, and so are predictions."
        ),
    ),
    "constant-prediction": (
        Relation("dead-relu", "A layer that is all zero tells no input from another."),
        Relation("collapsed-activation", "A signal that is lost tells no input from another."),
        Relation("saturated-activation", "A flat function tells no input from another."),
        Relation("embedding-collapse", "Equal vectors in, equal answers out."),
        Relation("symmetric-init", "Units that are all alike learn the mean and little else."),
        Relation("missing-gradient", "Only the last bias learns, and that is a constant."),
        Relation("vanishing-gradient", "Only the last layers learn, from what looks alike."),
        Relation("output-activation-mismatch", "The output cannot reach what the loss asks for."),
        Relation("loss-mismatch", "The mean of the targets is the best answer to such a loss."),
        Relation("class-imbalance", "The most frequent class is right most of the time."),
        Relation("exploding-gradient", _TOO_FAR),
        Relation("over-regularisation", "The penalty is cheapest for a constant."),
        Relation("learning-rate-too-high", _TOO_FAR),
        Relation("unnormalised-input", "One feature drowns the others."),
        Relation("unscaled-target", "Predictions are still near 0 on the scale of the targets."),
        Relation("not-zero-centred", "At first the last layers learn the mean, and nothing else."),
        Relation("initial-loss", "First predictions that are far off make huge first steps."),
        Relation("init-scale", "Large weights push units to where no input moves them."),
    ),
    "loss-plateau": (
        Relation("constant-prediction", "A constant has a best loss, and it is reached soon."),
        Relation("missing-gradient", "Without a gradient there is no step."),
        Relation("parameter-not-in-optimizer", "What no optimizer holds never changes."),
        Relation("vanishing-gradient", "The early layers stay as they were drawn."),
        Relation("dead-relu", _NOTHING_PASSES),
        Relation("saturated-activation", "A flat function passes no gradient."),
        Relation("collapsed-activation", "A signal that is lost teaches nothing."),
        Relation("embedding-collapse", "Vectors that are alike cannot be told apart."),
        Relation("dead-embedding", "Inputs that fall together on one row cannot be told apart."),
        Relation("symmetric-init", "Units that are all alike stay alike."),
        Relation("output-activation-mismatch", "The output cannot reach what the loss asks for."),
        Relation("loss-mismatch", "The loss does not measure what should be learnt."),
        Relation("learning-rate-too-low", "Steps are too small to get anywhere."),
        Relation("noisy-gradient", "Steps follow their batch, and cancel out."),
        Relation("diverging-loss", "What was lost is not won back."),
        Relation("loss-spike", "One leap undid what was won."),
        Relation("learning-rate-too-high", "Steps overshoot, and nothing is won."),
        Relation("over-regularisation", "The penalty holds the weights where they are."),
        Relation("init-scale", "Weights far too large or too small leave nothing to learn from."),
        Relation("unnormalised-input", "One feature drowns the others."),
        Relation("unscaled-target", "The output has far to go before anything else is learnt."),
        Relation("suspicious-labels", "There is no pattern to learn."),
        Relation("not-zero-centred", "Networks of sigmoids stand still for long at first."),
        Relation("initial-loss", "First predictions that are far off make huge first steps."),
    ),
    "underfitting": (
        Relation("loss-plateau", "A loss that stands still stays high."),
        Relation("constant-prediction", "A constant fits nothing well."),
        Relation("parameter-not-in-optimizer", "What no optimizer holds never changes."),
        Relation("missing-gradient", "Without a gradient there is no step."),
        Relation("vanishing-gradient", "The early layers stay as they were drawn."),
        Relation("dead-relu", "The network is smaller than it looks."),
        Relation("saturated-activation", "A flat function passes no gradient."),
        Relation("embedding-collapse", "Vectors that are alike cannot be told apart."),
        Relation("dead-embedding", "Inputs that fall together on one row cannot be told apart."),
        Relation("output-activation-mismatch", "The output cannot reach what the loss asks for."),
        Relation("loss-mismatch", "The loss does not measure what should be learnt."),
        Relation("learning-rate-too-low", "Steps are too small to get there in time."),
        Relation("learning-rate-too-high", "Steps overshoot what is left to win."),
        Relation("over-regularisation", "The penalty costs more than the fit wins."),
        Relation("loss-oscillation", "What one step wins, the next one loses."),
        Relation("noisy-gradient", "Steps follow their batch, and cancel out."),
        Relation("symmetric-init", "Units that are all alike are one unit."),
        Relation("init-scale", "Weights far too large or too small leave little to learn from."),
        Relation("unnormalised-input", "One feature drowns the others."),
        Relation("unscaled-target", "The output has far to go before anything else is learnt."),
        Relation("class-imbalance", "Rare classes are left out, and their loss stays."),
        Relation("suspicious-labels", "There is no pattern to learn."),
        Relation("not-zero-centred", "Networks of sigmoids stand still for long at first."),
    ),
    "overfitting": (
        Relation("train-validation-shift", "The two sets differ, whatever was learnt."),
        Relation("batch-norm-gap", "In validation the network works with other statistics."),
        Relation("eval-mode-with-trainable-parameters", "Dropout is off while training."),
        Relation("suspicious-labels", "Labels without a pattern can only be learnt by heart."),
        Relation("dead-embedding", "Rows that were never trained are noise in validation."),
        Relation("class-imbalance", "Of rare classes there is little but to learn it by heart."),
    ),
    "metric-loss-disagreement": (
        Relation("batch-norm-gap", "In validation the network works with other statistics."),
        Relation("class-imbalance", "The most frequent class earns the metric."),
        Relation("overfitting", "The loss punishes confidence where the metric does not."),
        Relation("output-activation-mismatch", "The loss is given what it is not made for."),
        Relation("loss-mismatch", "The loss does not measure what the metric does."),
        Relation("over-regularisation", "Outputs near zero lower the loss and not the mistakes."),
        Relation("train-validation-shift", "On other data, the two need not agree."),
        Relation("rank-divergence", "The loss is a mean over models that differ."),
    ),
    "batch-norm-gap": (
        Relation("learning-rate-too-high", "Weights move faster than running statistics follow."),
        Relation("train-validation-shift", "Running statistics are those of other data."),
        Relation("unnormalised-input", "Values far out of range enter the running variance."),
        Relation("frozen-but-changing", "Running statistics move on under frozen weights."),
        Relation(
            "eval-mode-with-trainable-parameters", "Statistics stand still while the weights move."
        ),
    ),
    "embedding-collapse": (
        Relation("over-regularisation", "Weight decay pulls all rows to zero."),
        Relation("learning-rate-too-high", "Large common steps drown what tells rows apart."),
        Relation("symmetric-init", "Rows that were set to one value stay alike."),
    ),
    "loss-mismatch": (
        Relation(
            "output-activation-mismatch", "What the loss is given is not what it is made for."
        ),
    ),
    "suspicious-labels": (
        Relation("dead-embedding", "Inputs that fall together on one row cannot be told apart."),
        Relation("embedding-collapse", "Vectors that are alike cannot be told apart."),
        Relation("missing-gradient", "Without a gradient there is no step."),
        Relation("parameter-not-in-optimizer", "What no optimizer holds never changes."),
        Relation("dead-relu", _NOTHING_PASSES),
        Relation("saturated-activation", "A flat function passes no gradient."),
        Relation("vanishing-gradient", "The early layers stay as they were drawn."),
        Relation("collapsed-activation", "A signal that is lost teaches nothing."),
        Relation("not-zero-centred", "Networks of sigmoids stand still for long at first."),
        Relation("batch-norm-gap", "Each sample is seen by what else is in its batch."),
        Relation("symmetric-init", "Units that are all alike stay alike."),
        Relation("output-activation-mismatch", "The output cannot reach what the loss asks for."),
        Relation("loss-mismatch", "The loss does not measure what should be learnt."),
        Relation("over-regularisation", "The penalty holds the weights where they are."),
        Relation("learning-rate-too-high", "Steps overshoot, and nothing is won."),
        Relation("init-scale", "Weights far too large or too small leave nothing to learn from."),
        Relation("unnormalised-input", "One feature drowns the others."),
        Relation("unscaled-target", "The output has far to go before anything else is learnt."),
    ),
    "init-scale": (Relation("symmetric-init", "One value for all weights has no proper scale."),),
}
"""Code to what may explain it, the most direct first. Where two may explain each other, place or
time allows one of them only, so that causes never go in a circle."""
