"""`LossMismatch`: a loss function that does not fit its targets, or how it is used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.misfits import (
    LEVELS,
    UNSIGNED,
    YES_OR_NO,
    Problem,
    below_zero,
    class_numbers,
    compares_all_pairs,
    negated,
    outside_of_yes_and_no,
)
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

_SCALES = ("SGD", "LBFGS", "ASGD")
"""Optimizers whose steps grow with the loss; Adam and its like do not notice."""


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

    def _found(self, history: History, place: str, problem: Problem, step: int) -> Finding:
        return Finding(
            code=self.code,
            severity=problem.severity,
            message=f"`{place}` {problem.text} ({self.records} looks, the last at step {step:,}).",
            remedy=problem.remedy,
            places=(place,),
            steps=(history.steps[0], step),
            evidence=Evidence(problem.value, problem.threshold, step + 1, self.records),
        )

    def _broadcast(self, call: Call) -> Problem | None:
        x, target = call["input_shape"], call["target_shape"]
        if not call["broadcast"] or len(x) == len(target):
            return None  # of as many dimensions, somebody may want all pairs
        return compares_all_pairs(x, target)

    def _negated(self, history: History, place: str) -> Problem | None:
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
        return negated(*pairs[0])

    def _negative(
        self, history: History, place: str, call: Call, losses: list[float]
    ) -> Problem | None:
        function = call["function"]
        if function in YES_OR_NO:
            low = looks(history, "target/min", place, self.records)
            high = looks(history, "target/max", place, self.records)
            worst = max([0.0, *(-v for _, v in low), *(v - 1 for _, v in high)])
            if worst > self.beyond and math.isfinite(worst):
                return outside_of_yes_and_no(worst, self.beyond)
        if function not in UNSIGNED | REGRESSION or not max(losses) < 0:
            return None
        logs = looks(history, "output/log_probability_fraction", place, 1)
        wants_logs = function in ("nll_loss", "kl_div")
        is_prediction = wants_logs and (not logs or logs[-1][1] < 0.5)
        return below_zero(losses[-1], wants_logs=is_prediction)

    def _classes(self, history: History, place: str, call: Call) -> Problem | None:
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
        if min(whole) < 1 or min(low) != 0 or not LEVELS <= top <= self.classes:
            return None
        mean, std = (centre(v for _, v in last[name]) for name in ("mean", "std"))
        outputs = _outputs(history)
        return class_numbers(mean, std, top, outputs=outputs, evenness=self.evenness)

    def _summed(self, history: History, place: str, call: Call) -> Problem | None:
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
        return Problem(
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
