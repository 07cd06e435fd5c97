"""`InitialLoss`: a first loss far above that of an answer without knowledge (C1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.calls import REGRESSION, Call, first_look, loss_calls
from lightning_diag.rules.reading import parameters, shown, size

_EITHER = frozenset({"binary_cross_entropy", "binary_cross_entropy_with_logits"})
_ONE_CLASS = 0.9
"""Share of the targets of one class from which on they are as good as all of it (our choice)."""


class _Start(NamedTuple):
    loss: float
    expected: float
    text: str
    """What is expected, as a part of a sentence."""


@dataclass(frozen=True)
class InitialLoss(Rule):
    """A first loss far above that of an answer that knows nothing.

    What it sees:
        The loss at the first step, before any update. A cross-entropy over C classes is ln C if all
        get the same score, a yes-or-no loss is ln 2, a multi-class hinge loss C - 1. Above `factor`
        times that, and `margin` more, the network is sure of itself and wrong. For a regression:
        the squared error against what the targets themselves amount to, if first predictions are
        larger than `factor` and larger than the targets. Twice `factor` is needed where nearly all
        first targets are of one class: then the loss is that of a single score. A lower loss is no
        finding: the network has been trained before. So is one of which half the weights are
        frozen.

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
    needs: ClassVar[tuple[str, ...]] = ("output/loss", "output/std")
    uses: ClassVar[tuple[str, ...]] = (
        "class/majority_share",
        "output/mean",
        "target/mean",
        "target/std",
    )

    factor: float = 2.0
    """Times the expected loss that counts, at least 1. TheDeepChecker alarms at twice. Healthy
    networks of the test generators began at most 1.75 times as high."""
    margin: float = 0.5
    """What must come on top of it, 0 or more, in the unit of the loss. Our choice: that is what a
    first batch of a few samples is off by."""

    def __post_init__(self) -> None:
        self._require("factor", least=1.0)
        self._require("margin", least=0.0)

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        calls = loss_calls(history)
        starts = {
            place: start
            for place, call in calls.items()
            if (start := self._start(history, place, call)) is not None
        }
        if not starts:
            return self.not_observed("no loss was seen at step 0 whose value is known in advance")
        high = [p for p, s in starts.items() if s.loss > self._limit(history, p, s)]
        if not high or _was_trained(history):
            return []
        place = max(high, key=lambda p: starts[p].loss / starts[p].expected)
        return [self._found(place, starts[place], high)]

    def _limit(self, history: History, place: str, start: _Start) -> float:
        """Return the loss that counts."""
        seen = history.series("class/majority_share", place)
        is_one = bool(seen.values) and seen.steps[0] == 0 and seen.values[0] >= _ONE_CLASS
        return (2 if is_one else 1) * self.factor * start.expected + self.margin

    def _start(self, history: History, place: str, call: Call) -> _Start | None:
        loss = first_look(history, "output/loss", place)
        if call["reduction"] == "sum":
            loss /= max(1, _parts(call))
        if not math.isfinite(loss):
            return None
        function, classes = call["function"], call["classes"]
        if function in ("cross_entropy", "nll_loss") and classes > 1:
            return _Start(loss, math.log(classes), f"ln {classes}")
        if function == "multi_margin_loss" and classes > 1:
            return _Start(loss, (classes - 1) / classes, f"{classes - 1}/{classes}")
        if function in _EITHER and not call["weighted"]:
            return _Start(loss, math.log(2), "ln 2")
        return self._of_regression(history, place) if function in REGRESSION else None

    def _of_regression(self, history: History, place: str) -> _Start | None:
        target, spread, mean, std = (
            first_look(history, metric, place)
            for metric in ("target/mean", "target/std", "output/mean", "output/std")
        )
        expected, own = math.hypot(target, spread), math.hypot(mean, std)
        if not (math.isfinite(expected) and math.isfinite(own)) or expected == 0:
            return None
        if own <= self.factor:  # what is small are the targets
            return _Start(0.0, expected, "")
        return _Start(own, expected, "the size of the targets")

    def _found(self, place: str, start: _Start, high: list[str]) -> Finding:
        what = (
            f"first predictions have a size of {shown(start.loss)}, and the targets of "
            f"{shown(start.expected)}"
            if start.text.startswith("the")
            else f"the first loss is {shown(start.loss)}, and a network that knows nothing has "
            f"{start.text} = {shown(start.expected)}"
        )
        return Finding(
            code=self.code,
            severity="suspect",
            message=(
                f"At `{place}` {what}: {shown(start.loss / start.expected)} times as much "
                f"(threshold {self.factor:g}, at step 0)."
            ),
            remedy=(
                "Draw the last layer's weights with a smaller standard deviation by "
                "`torch.nn.init.normal_`, set its bias with `torch.nn.init.zeros_`, and scale the "
                "inputs to mean 0 and standard deviation 1."
            ),
            places=(place, *(other for other in high if other != place)),
            steps=(0, 0),
            evidence=Evidence(start.loss, self.factor * start.expected, 1, 1),
        )


def _parts(call: Call) -> int:
    """Return over how many parts a loss was added up."""
    shape = call["input_shape"]
    if call["function"] in ("cross_entropy", "nll_loss", "multi_margin_loss") and len(shape) > 1:
        shape = [shape[0], *shape[2:]]
    return math.prod(shape)


def _was_trained(history: History) -> bool:
    """Return whether half of the weights are frozen: then others have trained them."""
    known = parameters(history)
    frozen = sum(size(history, name) for name, one in known.items() if not one["trainable"])
    return 2 * frozen >= sum(size(history, name) for name in known) > 0
