"""`LearningRateTooLow`: updates so small that the weights go nowhere."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.reading import (
    Loss,
    loss_of_weights,
    shown,
    typical_ratio,
    weights,
)

_GLANCE = 32
"""Records whose reach is added up first (our choice): a run that learns shows it in them
already."""
_COSINES = 8
"""Cosines that a mean must rest on (our choice)."""
_GUESSES = 0.9
"""Share of the loss of guessing that a loss still is when nothing has been learned (our
choice)."""


@dataclass(frozen=True)
class LearningRateTooLow(Rule):
    """Updates so small that they could not have lowered the loss, or go nowhere at all.

    What it sees:
        The update ratio that nine of ten weight tensors stay below in each of the newest `records`
        watched steps, and a loss that has fallen by less than `progress` in at least `patience`
        steps. Below `ratio` that is enough. Below `usual_ratio` it takes the *reach*: the norm of
        each update times that of its gradient, added up over all steps since the first. To first
        order, and by Cauchy and Schwarz, no choice of directions lets those updates lower the loss
        by more. If that is less than `reach` of the first loss, the steps are too short, however
        well they are aimed; a model that has settled has made its way, or its loss is small. While
        a classifier's loss is still that of guessing it has settled on nothing, so that only what
        batches agree on counts: the reach times the mean cosine of neighbouring gradients. Silent
        while the learning rate warms up, when there are no gradients, and where a classifier's
        first loss is below `trained` of what guessing gives: it comes trained, and fine-tuning goes
        slowly.

    Why it matters:
        At a ratio of 1e-5 a weight needs 100,000 steps to change by its own size (W6, W10).

    What to do:
        Multiply the learning rate by 10 until the loss falls clearly, or updates are about a
        thousandth of the weights, or take what a range test suggests. A rate that was chosen for
        smaller batches is scaled up by `LinearScalingLR`.

    References:
        CS231n course notes, Neural Networks Part 3: ratio of updates to weights about 1e-3.
        Nocedal and Wright, Numerical Optimization, 2006, chapter 3: the decrease that a step
        promises to first order.
    """

    code: ClassVar[str] = "learning-rate-too-low"
    needs: ClassVar[tuple[str, ...]] = ("update/ratio", "loss/train")
    uses: ClassVar[tuple[str, ...]] = (
        "gradient/cosine",
        "gradient/total_norm",
        "lr/value",
        "update/norm",
    )

    ratio: float = 1e-5
    """Update ratio that nine of ten weights must stay below, 0 or more. torchmortem and
    DeepDiagnosis use 1e-5; fine-tuning in the runs this was tuned on stayed above 1.1e-5."""
    usual_ratio: float = 3e-4
    """The same where the updates reach nowhere, at least `ratio`. Our choice, a third of the usual
    1e-3 (W6): whoever moves that fast and learns nothing has another problem. Runs at 1/300 of
    their best learning rate or less stayed below 8e-5, hopeless tasks at a third went above."""
    reach: float = 0.25
    """Share of the first loss that all updates together could have removed, 0 to 1. Our choice:
    at their end 693 healthy runs had a reach of 0.35 and more, half of them above 6; runs at a
    hundredth of their best learning rate or less had a median of 0.01."""
    progress: float = 0.2
    """Share of the first loss that must be gone for silence, 0 to 1. Our choice: what is left
    after a reach of a quarter has been used well."""
    trained: float = 0.25
    """Share of the loss of guessing, ln C for C classes, below which a classifier's first loss is
    that of a trained network, 0 to 1. Our choice: before it has learned none is as good."""
    records: int = 10
    """Watched steps in a row that must agree, at least 1. Our choice: more than a fluctuation, and
    fewer than a short run has."""
    patience: int = 100
    """Steps before the loss is judged, at least 16. Our choice: at a usual ratio of 1e-3 weights
    have moved a tenth of their size by then."""

    def __post_init__(self) -> None:
        self._require("ratio", "usual_ratio", least=0.0)
        self._require_order("ratio", "usual_ratio")
        self._require("reach", "progress", "trained", least=0.0, most=1.0)
        self._require("records", least=1, unit="watched step")
        self._require("patience", least=16, unit="steps")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        loss, names = loss_of_weights(history), weights(history)
        if isinstance(loss, str):
            return self.not_observed(loss)
        if loss.steps < self.patience:
            return self.not_observed(f"the run is shorter than {self.patience} steps")
        comes_trained = loss.from_start and loss.start < self.trained * _guessing(history)
        if loss.progress >= self.progress or comes_trained:
            return []
        fastest = self._fastest(history, names)
        if not fastest < self.usual_ratio or _has_no_gradient(history) or _is_warming_up(history):
            return []
        share = None
        if not fastest < self.ratio or _has_another_reason(history, 100 * self.ratio):
            share = reach(history, loss, self._used(history, loss))
            if share is None or not share < self.reach:
                return []
        return [self._found(history, names, loss, fastest, share)]

    def _found(
        self, history: History, names: list[str], loss: Loss, fastest: float, share: float | None
    ) -> Finding:
        window = history.window("update/ratio", self.records)
        first, last = window[0][0], window[-1][0]
        threshold = f"threshold {shown(self.ratio)}, " if share is None else ""
        used = self._used(history, loss)
        how = (
            ", each straight down its gradient"
            if used == 1
            else f", of which neighbouring gradients share {used:.0%}"
        )
        why = (
            ""
            if share is None
            else f" All updates so far{how}, could have lowered it by "
            f"at most {shown(share * loss.start)}, {share:.1%} (threshold {self.reach:.0%})."
        )
        return Finding(
            code=self.code,
            severity="suspect",
            message=(
                f"Updates are too small: in each of the {self.records} watched steps from "
                f"{first:,} to {last:,} nine of ten weights changed by at most "
                f"{shown(fastest)} of their size ({threshold}usual 0.001), and the loss went from "
                f"{shown(loss.start)} to {shown(loss.now)} in {loss.steps:,} steps.{why}"
            ),
            remedy=(
                "Multiply the learning rate by 10, until `update/ratio` is about 1e-3 or the loss "
                "falls clearly, or take what `lightning_diag.lr_range_test` suggests. If it was "
                "chosen for smaller batches, scale it with `lightning_diag.LinearScalingLR`."
            ),
            places=tuple(sorted(names, key=lambda n: window[-1][1].get(n, 1.0))[:8]),
            steps=(first, last),
            evidence=(
                Evidence(fastest, self.ratio, last - first + 1, self.records)
                if share is None
                else Evidence(share, self.reach, loss.steps, len(history))
            ),
        )

    def _used(self, history: History, loss: Loss) -> float:
        """Return the part of a step that counts: of a guesser's, what follows the true gradient."""
        window = history.window("gradient/cosine", _GLANCE)
        known = [seen[""] for _, seen in window if "" in seen]
        if len(known) < _COSINES or not loss.now >= _GUESSES * _guessing(history) > 0:
            return 1.0
        return min(1.0, max(0.0, math.fsum(known) / len(known)))

    def _fastest(self, history: History, names: list[str]) -> float:
        """Return the largest ratio of nine in ten weights over the newest records."""
        if not _nine_in_ten(history.last("update/ratio"), names) < self.usual_ratio:
            return math.inf
        window = history.window("update/ratio", self.records)
        if len(window) < self.records:
            return math.inf
        return max(_nine_in_ten(seen, names) for _, seen in window)


def reach(history: History, loss: Loss, used: float) -> float | None:
    """Return by which share of the first loss all updates could have lowered it, to first order.

    Of each update the part `used` counts. None where the beginning of the run, its gradients or its
    updates are not known, and infinite as soon as the newest records alone have a reach above 1.
    """
    if not loss.from_start:
        return None
    total = None
    for records in (_GLANCE, len(history)):
        total = _promised(history, records)
        if total is None or total * used > loss.start:
            return None if total is None else math.inf
    return None if total is None else total * used / loss.start


def _promised(history: History, records: int) -> float | None:
    """Return the sum of update norm times gradient norm over the steps of the newest records."""
    norms = dict(history.window("gradient/total_norm", records))
    points = [
        (step, norms[step][""] * math.hypot(*moved.values()))
        for step, moved in history.window("update/norm", records)
        if "" in norms.get(step, ())
    ]
    if len(points) < 2:
        return None
    total = points[0][1]
    for (before, early), (step, late) in itertools.pairwise(points):
        total += (step - before) * (early + late) / 2
    return math.inf if math.isnan(total) else total


def _nine_in_ten(ratios: dict[str, float], names: list[str]) -> float:
    """Return the ratio that nine in ten of the weights do not exceed; infinite without any."""
    values = sorted(ratios[name] for name in names if name in ratios)
    return values[int(0.9 * (len(values) - 1))] if values else math.inf


def _guessing(history: History) -> float:
    """Return the least loss of a guess among the classification losses; 0 without any."""
    calls = history.meta.get("losses", {}).values()
    chances = [
        math.log(call["classes"])
        for call in calls
        if call["function"] in ("cross_entropy", "nll_loss") and call["classes"] > 1
    ]
    return min(chances, default=0.0)


def _has_no_gradient(history: History) -> bool:
    return history.last("gradient/total_norm").get("") == 0


def _is_warming_up(history: History) -> bool:
    """Return whether a learning rate has risen over the newest ten records."""
    for group in history.places("lr/value"):
        rates = history.series("lr/value", group).values
        if rates[-1] > 1.001 * rates[-min(len(rates), 10)]:
            return True
    return False


def _has_another_reason(history: History, fast: float) -> bool:
    """Return whether a schedule has ended, or what moved fast before has arrived or broken down."""
    for group in history.places("lr/value"):
        rates = history.series("lr/value", group).values
        if rates[-1] < 0.5 * max(rates):
            return True
    return any(value > fast for value in typical_ratio(history).values)
