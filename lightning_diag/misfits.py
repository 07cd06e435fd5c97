"""What can be wrong between a prediction, a target and a loss function, in words.

Rules find it in a history, checks in the tensors of a first step; both say the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lightning_diag.finding import Severity
from lightning_diag.wording import shown

SQUASHED = frozenset({"sigmoid", "softmax", "hardsigmoid"})
"""Functions that return probabilities."""
CUT = frozenset({"tanh", "relu", "hardtanh", "hardsigmoid", "sigmoid"})
"""Functions that keep scores from moving apart."""
YES_OR_NO = frozenset({"binary_cross_entropy", "binary_cross_entropy_with_logits"})
"""Losses whose targets go from no, 0, to yes, 1."""
UNSIGNED = YES_OR_NO | {"cross_entropy", "nll_loss", "kl_div", "multi_margin_loss"}
"""Losses that, beside those of regressions, cannot be negative."""
LEVELS = 2
"""A class number must reach this: 0 and 1 alone may well be least squares on purpose."""

_LOGITS = "Give it the output of the last layer as it is; "
_REACH = {
    "relu": "cannot go below 0",
    "softplus": "cannot go below 0",
    "exp": "cannot go below 0",
    "tanh": "stays between -1 and 1",
    "logsigmoid": "cannot go above 0",
    "log_softmax": "cannot go above 0",
}


class Problem(NamedTuple):
    """What is wrong with a call of a loss function."""

    severity: Severity
    text: str
    """The rest of a sentence that begins with the call's place."""
    remedy: str
    value: float
    threshold: float


def one_class() -> Problem:
    """Return that there is nothing to choose from."""
    return Problem(
        "bad",
        "is a cross-entropy over 1 class, which is 0 whatever the network says",
        remedy="Use `torch.nn.BCEWithLogitsLoss` for one output, or as many outputs as classes.",
        value=1.0,
        threshold=2.0,
    )


def softmax_twice(share: float, rows: float) -> Problem:
    """Return that a share of the rows that a cross-entropy gets are probabilities."""
    return Problem(
        "bad",
        f"applies softmax to what is the result of a softmax: {share:.0%} of the rows it is given "
        f"are probabilities (threshold {rows:.0%})",
        remedy=_LOGITS + "`torch.nn.CrossEntropyLoss` has the softmax in it.",
        value=share,
        threshold=rows,
    )


def bounded_scores(activation: str) -> Problem:
    """Return that a cross-entropy gets what another function has cut."""
    return Problem(
        "suspect",
        f"is given the output of a {activation}, 1 function too many: it keeps the scores from "
        "moving apart",
        remedy=_LOGITS + "`torch.nn.CrossEntropyLoss` takes scores of any size and sign.",
        value=1.0,
        threshold=0.0,
    )


def sigmoid_after(activation: str) -> Problem:
    """Return that a sigmoid follows a function that cuts or squashes."""
    text = "so no probability is below 50 %" if activation != "tanh" else "from 27 % to 73 %"
    return Problem(
        "bad" if activation in SQUASHED else "suspect",
        f"applies a sigmoid to the output of a {activation}: {text}",
        remedy=_LOGITS + "`torch.nn.BCEWithLogitsLoss` has the sigmoid in it.",
        value=1.0,
        threshold=0.0,
    )


def out_of_reach(activation: str, share: float, least: float, bad: float) -> Problem:
    """Return that a function cannot return a share of the targets."""
    return Problem(
        "bad" if share >= bad else "suspect",
        f"compares targets with the output of a {activation}, which "
        f"{_REACH.get(activation, 'stays between 0 and 1')}: {share:.0%} of the targets lie beyond "
        f"(threshold {least:.0%})",
        remedy="Leave out the last activation function, or scale the targets to what it can "
        "return.",
        value=share,
        threshold=least,
    )


def compares_all_pairs(x: Sequence[int], target: Sequence[int]) -> Problem:
    """Return that shapes make each prediction meet each target."""
    return Problem(
        "bad",
        f"compares predictions of shape {tuple(x)} with targets of shape {tuple(target)}: each "
        "with all of them, so the mean of the targets is the best answer",
        remedy="Give both the same shape, with `.squeeze(1)` or `.unsqueeze(1)`.",
        value=float(len(x)),
        threshold=float(len(target)),
    )


def negated(value: float, minimised: float) -> Problem:
    """Return that the negative of a loss is minimised."""
    return Problem(
        "bad",
        f"returns {shown(value)}, and training minimises {shown(minimised)}: its negative, so "
        "that the network learns to be wrong",
        remedy="Minimise what the loss function returns, not its negative.",
        value=minimised,
        threshold=0.0,
    )


def outside_of_yes_and_no(worst: float, beyond: float) -> Problem:
    """Return how far targets of a yes-or-no loss lie outside 0 to 1."""
    return Problem(
        "bad",
        f"takes targets from 0 to 1, and gets some that lie {shown(worst)} outside (threshold "
        f"{beyond:g})",
        remedy="Give it 0 for no and 1 for yes; for numbers use `torch.nn.MSELoss`.",
        value=worst,
        threshold=beyond,
    )


def below_zero(value: float, *, wants_logs: bool) -> Problem:
    """Return that a loss is negative that cannot be, by its predictions or else its targets."""
    return Problem(
        "bad",
        f"returned {shown(value)}, which it can only if its "
        f"{'predictions' if wants_logs else 'targets'} are not what it takes (least: 0)",
        remedy="Give it logarithms of probabilities, by `torch.nn.functional.log_softmax`."
        if wants_logs
        else "Check the targets: probabilities must lie between 0 and 1 and add up to 1.",
        value=value,
        threshold=0.0,
    )


def class_numbers(
    mean: float, std: float, top: float, *, outputs: float, evenness: float, count: str = ""
) -> Problem | None:
    """Return that targets of a regression are spread as the numbers of classes are, if so.

    Args:
        mean: Of the targets, which are whole numbers from 0 on.
        std: Their standard deviation.
        top: The largest.
        outputs: Of the network; as many as there would be classes are evidence of their own.
        evenness: How far off they may be, as a share of the classes.
        count: Among how many, as a part of the sentence.

    Example:
        >>> class_numbers(4.5, 2.9, 9.0, outputs=1, evenness=0.2).severity
        'suspect'
        >>> class_numbers(1.0, 2.9, 9.0, outputs=1, evenness=0.2)
    """
    classes = top + 1
    even = math.sqrt((classes * classes - 1) / 12)
    off = max(abs(mean - top / 2), abs(std - even)) / classes
    if off > evenness or (off > evenness / 2 and outputs != classes):
        return None
    return Problem(
        "suspect",
        f"measures distances to targets that look like the numbers of {classes:.0f} classes: whole "
        f"numbers from 0 to {top:.0f}, about equally frequent{count}",
        remedy="For classes use `torch.nn.CrossEntropyLoss` and one output for each; if the "
        "numbers are quantities, all is well.",
        value=off,
        threshold=evenness,
    )
