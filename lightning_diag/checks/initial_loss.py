"""`InitialLoss`: a first loss far above that of an answer without knowledge (C1, P10)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lightning_diag.checks.base import Check
from lightning_diag.checks.losses import SeenLoss
from lightning_diag.checks.places import held_parameters
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.wording import shown

_ONE_CLASS = 0.9
"""Share of the targets of one class from which on they are as good as all of it (our choice)."""
_SCORES = frozenset(
    {"binary_cross_entropy_with_logits", "soft_margin_loss", "multilabel_soft_margin_loss"}
)
_SQUARED = frozenset({"mse_loss"})
_REGRESSION = _SQUARED | {"l1_loss", "smooth_l1_loss", "huber_loss"}


class Start(NamedTuple):
    """A first loss, and what an answer that knows nothing would have had."""

    place: str
    loss: float
    expected: float
    answer: str
    """What that answer is, as a part of a sentence."""
    limit: float
    """The loss above which it counts."""

    @property
    def ratio(self) -> float:
        """Times the expected loss."""
        return self.loss / self.expected


@dataclass(frozen=True)
class InitialLoss(Check):
    """A first loss far above that of an answer that knows nothing.

    What it sees:
        The calls of loss functions in one training step on a copy. Each is made again with an
        answer that knows nothing, and the same targets, class weights, label smoothing and ignored
        targets: the same score for all classes (ln C for a cross-entropy over C classes, ln 2 for
        yes or no, (C - 1) / C for a multi-class hinge loss), or for numbers the mean of the
        targets, and zero where that is worse. Losses are taken before any division by an
        accumulation factor. For numbers, predictions must also be larger than the targets and than
        `factor`. Twice `factor` is needed where nearly all targets are of one class: then the loss
        is that of a single score. A lower loss is no finding: the network has been trained before.
        So is one of which half the weights are frozen.

    Why it matters:
        The first steps go into unlearning, with large gradients that can kill units; scores come
        from a last layer, or signals before it, that are many times too large.

    What to do:
        Initialise the last layer with a small standard deviation and its bias with zeros or the
        log frequencies of the classes; scale the inputs.

    References:
        CS231n course notes, Neural Networks Part 3: look for the correct loss at chance (C1).
        Braiek and Khomh, TheDeepChecker, 2022, arXiv:2204.00694.
    """

    code: ClassVar[str] = "initial-loss"
    needs: ClassVar[tuple[str, ...]] = ("losses",)

    factor: float = 2.0
    """Times the expected loss that counts, at least 1, as in `lightning_diag.rules`:
    TheDeepChecker alarms at twice. Squared errors count from its square on."""
    margin: float = 0.5
    """What must come on top of it, 0 or more, in the unit of the loss; not for numbers. Our choice:
    that is what a first batch of a few samples is off by."""

    def __post_init__(self) -> None:
        self._require("factor", least=1.0)
        self._require("margin", least=0.0)

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        seen = [loss for loss in subject.trial.losses if loss.trained]
        starts = [start for loss in seen if (start := self._start(loss)) is not None]
        if not starts:
            return self.not_observed("no loss was seen whose value is known in advance")
        high = sorted((s for s in starts if s.loss > s.limit), key=lambda s: -s.ratio)
        if not high or _was_trained(subject):
            return []
        worst = high[0]
        return self.found(
            "suspect",
            f"At `{worst.place}` the first loss is {shown(worst.loss)}, and {worst.answer} would "
            f"have {shown(worst.expected)}: {shown(worst.ratio)} times as much (it counts above "
            f"{shown(worst.limit)}; one batch).",
            "Draw the last layer's weights with a smaller standard deviation by "
            "`torch.nn.init.normal_`, set its bias with `torch.nn.init.zeros_`, and scale the "
            "inputs to mean 0 and standard deviation 1.",
            value=worst.loss,
            threshold=worst.limit,
            places=[start.place for start in high],
        )

    def _start(self, seen: SeenLoss) -> Start | None:
        blank = blank_answer(seen)
        if blank is None:
            return None
        prediction, answer = blank
        loss, expected = again(seen, seen.call.input), again(seen, prediction)
        if seen.function in _REGRESSION:
            zero = again(seen, torch.zeros_like(seen.call.input))
            if zero > expected:
                expected, answer = zero, "an answer of zeros"
        if not (math.isfinite(loss) and math.isfinite(expected)) or expected <= 0:
            return None
        return Start(seen.place, loss, expected, answer, self._limit(seen, expected))

    def _limit(self, seen: SeenLoss, expected: float) -> float:
        """Return the loss above which it counts."""
        if seen.function not in _REGRESSION:
            return self._factor(seen) * expected + self.margin
        size = float(seen.call.input.float().square().mean().sqrt())
        if size <= self.factor:  # what is small are the targets
            return math.inf
        return self.factor ** (2 if seen.function in _SQUARED else 1) * expected

    def _factor(self, seen: SeenLoss) -> float:
        target = seen.call.target
        if target.is_floating_point() or not target.numel():
            return self.factor
        kept = target[target != seen.call.ignore_index]
        most = int(torch.unique(kept, return_counts=True)[1].max()) if kept.numel() else 0
        return self.factor * (2 if most >= _ONE_CLASS * max(1, kept.numel()) else 1)


def blank_answer(seen: SeenLoss) -> tuple[Tensor, str] | None:
    """Return the prediction of a network that knows nothing, and what it is; None if not known.

    Example:
        >>> from lightning_diag.checks.losses import LossCatch
        >>> with LossCatch({}) as catch:
        ...     _ = functional.mse_loss(torch.zeros(2), torch.tensor([1.0, 3.0]))
        >>> blank_answer(catch.seen[0])
        (tensor([2., 2.]), 'the mean of the targets')
    """
    prediction, target = seen.call.input.float(), seen.call.target
    zeros = torch.zeros_like(prediction)
    classes = prediction.shape[1 if prediction.dim() > 1 else 0] if prediction.dim() else 0
    equal = f"the same score for {classes} classes"
    match seen.function:
        case "cross_entropy" | "multi_margin_loss" if classes > 1:
            return zeros, equal
        case "nll_loss" if classes > 1:
            return zeros - math.log(classes), equal
        case (
            "binary_cross_entropy_with_logits" | "soft_margin_loss" | "multilabel_soft_margin_loss"
        ):
            return zeros, "a score of 0"
        case "binary_cross_entropy":
            return zeros + 0.5, "a probability of 0.5"
        case name if name in _REGRESSION and target.numel():
            return zeros + target.float().mean(), "the mean of the targets"
    return None


def again(seen: SeenLoss, prediction: Tensor) -> float:
    """Return the mean loss that another prediction would have had in the same call.

    NaN where torch does not take it, or where nothing counts.
    """
    function: Callable[..., Any] = getattr(functional, seen.function)
    try:
        with torch.no_grad():
            given = {name: _float(value) for name, value in seen.given.items()}
            values = function(
                prediction.float(), _float(seen.call.target), **given, reduction="mean"
            )
    except (RuntimeError, ValueError):
        return math.nan
    return float(values)


def _float(value: Any) -> Any:
    is_number = isinstance(value, Tensor) and value.is_floating_point()
    return value.float() if is_number else value


def _was_trained(subject: Subject) -> bool:
    """Return whether half of the weights are frozen: then others have trained them."""
    known = held_parameters(subject.module, ()).values()
    frozen = sum(each.elements for each in known if not each.trainable)
    return 2 * frozen >= sum(each.elements for each in known) > 0
