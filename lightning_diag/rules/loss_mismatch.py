"""`LossMismatch`: a loss function that does not fit its targets, or how it is used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, NamedTuple

from lightning_diag.finding import Evidence, Finding, Severity
from lightning_diag.history import History
from lightning_diag.record import Record
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.calls import REGRESSION, Call, looks, loss_calls, the_loss
from lightning_diag.rules.reading import (
    centre,
    has_several_optimizers,
    parameters,
    shown,
    typical_ratio,
    weights,
)

_YES_OR_NO = frozenset({"binary_cross_entropy", "binary_cross_entropy_with_logits"})
_NEVER_NEGATIVE = (
    _YES_OR_NO | REGRESSION | {"cross_entropy", "nll_loss", "kl_div", "multi_margin_loss"}
)
_SCALES = ("SGD", "LBFGS", "ASGD")
"""Optimizers whose steps grow with the loss; Adam and its like do not notice."""
_LEVELS = 2
"""A class index must reach this: 0 and 1 alone may well be least squares on purpose."""


class _Problem(NamedTuple):
    severity: Severity
    text: str
    """What is wrong, as the rest of a sentence that begins with the call."""
    remedy: str
    value: float
    threshold: float


@dataclass(frozen=True)
class LossMismatch(Rule):
    """A loss function that does not fit its targets, or the way it is used.

    What it sees:
        *Broadcast*: a column of predictions and a row of targets, so that each prediction is
        compared with every target. *Sign*: the training loss is the negative of what the loss
        function returned, or a function that cannot be negative is, or targets of a yes-or-no
        loss lie more than `beyond` outside 0 to 1. *Classes as quantities*: targets of a
        regression that are whole numbers from 0 up, spread as evenly as class numbers are.
        *Sum*: `reduction="sum"` under an optimizer whose steps grow with the loss: a note, and
        `suspect` when the typical update is `ratio` of the weights or the loss has tripled.

    Why it matters:
        All of these run without an error and most still bring the loss down: towards the mean of
        the targets, towards being wrong, towards the class in the middle. A sum over the batch
        makes the learning rate depend on the batch size.

    What to do:
        Compare shapes, signs and the kind of targets with what the loss function documents.

    References:
        PyTorch documentation of `MSELoss`, `BCELoss`, `CrossEntropyLoss`.
        Wardat et al., DeepDiagnosis, ICSE 2022, arXiv:2112.13993 (a loss below 0).
    """

    code: ClassVar[str] = "loss-mismatch"
    needs: ClassVar[tuple[str, ...]] = ("output/loss",)
    uses: ClassVar[tuple[str, ...]] = (
        "loss/train",
        "output/log_probability_fraction",
        "target/integer_fraction",
        "target/max",
        "target/mean",
        "target/min",
        "target/std",
        "update/norm",
        "update/ratio",
    )

    beyond: float = 0.5
    """How far targets of a yes-or-no loss may lie outside 0 to 1, 0 or more. Our choice: labels
    that are smoothed or drawn at random, as for some adversaries, stay within 0.2."""
    evenness: float = 0.2
    """How far mean and spread of class numbers may be from those of classes that are all equally
    frequent, 0 to 1 of the number of classes. Our choice: counts and ratings lie beyond."""
    classes: int = 100
    """Largest class number that is taken for one, at least 2. Our choice: beyond, whole numbers
    are quantities."""
    ratio: float = 0.03
    """Update ratio that makes a sum harmful, 0 or more, as in `learning-rate-too-high`."""
    records: int = 3
    """Looks that must agree, at least 1. Our choice: three span the first steps."""

    def __post_init__(self) -> None:
        self._require("beyond", "ratio", least=0.0)
        self._require("evenness", least=0.0, most=1.0)
        self._require("classes", least=2)
        self._require("records", least=1, unit="look")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        for place, call in loss_calls(history).items():
            seen = looks(history, "output/loss", place, self.records)
            if len(seen) < self.records:
                continue
            problem = (
                self._broadcast(call)
                or self._negated(history, place)
                or self._negative(history, place, call, [value for _, value in seen])
                or self._classes(history, place, call)
                or self._summed(history, place, call)
            )
            if problem is not None:
                return [self._found(history, place, problem, seen[-1][0])]
        return []

    def _found(self, history: History, place: str, problem: _Problem, step: int) -> Finding:
        return Finding(
            code=self.code,
            severity=problem.severity,
            message=f"`{place}` {problem.text} ({self.records} looks, the last at step {step:,}).",
            remedy=problem.remedy,
            places=(place,),
            steps=(history.steps[0], step),
            evidence=Evidence(problem.value, problem.threshold, step + 1, self.records),
        )

    def _broadcast(self, call: Call) -> _Problem | None:
        x, target = call["input_shape"], call["target_shape"]
        if not call["broadcast"] or len(x) == len(target):
            return None  # of as many dimensions, somebody may want all pairs
        return _Problem(
            "bad",
            f"compares predictions of shape {tuple(x)} with targets of shape {tuple(target)}: each "
            "with all of them, so the mean of the targets is the best answer",
            "Give both the same shape, with `.squeeze(1)` or `.unsqueeze(1)`.",
            float(len(x)),
            float(len(target)),
        )

    def _negated(self, history: History, place: str) -> _Problem | None:
        now = history.last("loss/train").get("", 0.0)
        if not now < 0 or has_several_optimizers(history) or the_loss(history) is not None:
            return None
        pairs = [
            (record.values["output/loss"][place], float(record.dense["loss/train"][-1]))
            for record in _first(history, self.records)
            if place in record.values.get("output/loss", {}) and record.dense.get("loss/train")
        ]
        if len(pairs) < self.records:
            return None
        if not all(value > 0 and abs(value + loss) <= 1e-3 * value for value, loss in pairs):
            return None
        return _Problem(
            "bad",
            f"returns {shown(pairs[0][0])}, and training minimises {shown(pairs[0][1])}: its "
            "negative, so that the network learns to be wrong",
            "Minimise what the loss function returns, not its negative.",
            pairs[0][1],
            0.0,
        )

    def _negative(
        self, history: History, place: str, call: Call, losses: list[float]
    ) -> _Problem | None:
        function = call["function"]
        if function in _YES_OR_NO:
            low = looks(history, "target/min", place, self.records)
            high = looks(history, "target/max", place, self.records)
            worst = max([0.0, *(-v for _, v in low), *(v - 1 for _, v in high)])
            if worst > self.beyond and math.isfinite(worst):
                return _Problem(
                    "bad",
                    f"takes targets from 0 to 1, and gets some that lie {shown(worst)} outside "
                    f"(threshold {self.beyond:g})",
                    "Give it 0 for no and 1 for yes; for numbers use `torch.nn.MSELoss`.",
                    worst,
                    self.beyond,
                )
        if function not in _NEVER_NEGATIVE or not max(losses) < 0:
            return None
        logs = looks(history, "output/log_probability_fraction", place, 1)
        wants_logs = function in ("nll_loss", "kl_div")
        is_prediction = wants_logs and (not logs or logs[-1][1] < 0.5)
        return _Problem(
            "bad",
            f"returned {shown(losses[-1])}, which it can only if its "
            f"{'predictions' if is_prediction else 'targets'} are not what it takes (least: 0)",
            "Give it logarithms of probabilities, by `torch.nn.functional.log_softmax`."
            if is_prediction
            else "Check the targets: probabilities must lie between 0 and 1 and add up to 1.",
            losses[-1],
            0.0,
        )

    def _classes(self, history: History, place: str, call: Call) -> _Problem | None:
        if call["function"] not in REGRESSION:
            return None
        last = {
            name: looks(history, f"target/{name}", place, self.records)
            for name in ("integer_fraction", "min", "max", "mean", "std")
        }
        if any(len(found) < self.records for found in last.values()):
            return None
        whole, low, high = (
            [value for _, value in last[name]] for name in ("integer_fraction", "min", "max")
        )
        top = max(high)
        if min(whole) < 1 or min(low) != 0 or not _LEVELS <= top <= self.classes:
            return None
        count = top + 1
        mean, std = (centre(v for _, v in last[name]) for name in ("mean", "std"))
        even = math.sqrt((count * count - 1) / 12)
        off = max(abs(mean - top / 2), abs(std - even)) / count
        outputs = _outputs(history)
        if off > self.evenness or (off > self.evenness / 2 and outputs != count):
            return None
        return _Problem(
            "suspect",
            f"measures distances to targets that look like the numbers of {count:.0f} classes: "
            f"whole numbers from 0 to {top:.0f}, about equally frequent",
            "For classes use `torch.nn.CrossEntropyLoss` and one output for each; if the numbers "
            "are quantities, all is well.",
            off,
            self.evenness,
        )

    def _summed(self, history: History, place: str, call: Call) -> _Problem | None:
        size = call["input_shape"][0] if call["input_shape"] else 1
        optimizers = history.meta.get("optimizers", [])
        if call["reduction"] != "sum" or size < 2 or the_loss(history) != place:
            return None
        if not any(optimizer.get("class") in _SCALES for optimizer in optimizers):
            return None
        first = looks(history, "output/loss", place, 1 << 30)[0][1]
        now = centre(values[""] for _, values in history.window("loss/train", 16))
        updates = typical_ratio(history).values if weights(history) else []
        large = sorted(updates)[len(updates) // 2] if updates else 0.0
        hurts = not large < self.ratio or not now < 3 * first
        return _Problem(
            "suspect" if hurts else "note",
            f"adds up the losses of {size} samples, so that steps grow with the batch size"
            + (
                f"; the typical weight changes by {shown(large)} of its size in a step (threshold "
                f"{self.ratio:g}), and the loss went from {shown(first)} to {shown(now)}"
                if hurts
                else ""
            ),
            "Leave `reduction` at its default, or divide the learning rate by the batch size.",
            large,
            self.ratio,
        )


def _first(history: History, n: int) -> list[Record]:
    return list(islice(history.records(), n))


def _outputs(history: History) -> float:
    """Return the number of outputs of the last layer with weights, NaN if it is not known."""
    known = parameters(history)
    names = weights(history)
    return float(known[names[-1]]["shape"][0]) if names else math.nan
