"""`LearningRateTooLow`: updates so small that the weights go nowhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, pvariance
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

_SIGNIFICANT = 4.0
"""Standard errors by which a straight loss must have fallen: once in 30,000 times by chance."""


@dataclass(frozen=True)
class LearningRateTooLow(Rule):
    """Updates so small, against the weights, that nine in ten weight tensors go nowhere.

    What it sees:
        The update ratio that nine of ten weight tensors stay below in each of the newest
        `records` watched steps, and a loss that has fallen by less than `progress` in at least
        `patience` steps. Below `ratio` that is enough; below `slow_ratio` the loss must also fall
        in a straight line, its last quarter as fast as its first: a loss that has settled, as in
        gentle fine-tuning, is flat. Silent while the learning rate warms up, once a schedule has
        taken it below half of its highest value, when updates were large before, and when there
        are no gradients.

    Why it matters:
        At a ratio of 1e-5 a weight needs 100,000 steps to change by its own size (W6, W10).

    What to do:
        Multiply the learning rate by 10 until the loss falls clearly, or updates are about a
        thousandth of the weights.

    References:
        CS231n course notes, Neural Networks Part 3: ratio of updates to weights about 1e-3; a
        linear loss curve means a low learning rate.
    """

    code: ClassVar[str] = "learning-rate-too-low"
    needs: ClassVar[tuple[str, ...]] = ("update/ratio", "loss/train")
    uses: ClassVar[tuple[str, ...]] = ("gradient/total_norm", "lr/value", "update/norm")

    ratio: float = 1e-5
    """Update ratio that nine of ten weights must stay below, 0 or more. torchmortem and
    DeepDiagnosis use 1e-5; fine-tuning in the runs this was tuned on stayed above 1.1e-5."""
    slow_ratio: float = 1e-4
    """The same where the loss falls in a straight line, at least `ratio`: the lower end that
    TheDeepChecker allows, a tenth of the usual."""
    progress: float = 0.1
    """Share of the first loss that must be gone for silence, 0 to 1. Our choice."""
    records: int = 10
    """Watched steps in a row that must agree, at least 1. Our choice: more than a fluctuation, and
    fewer than a short run has."""
    patience: int = 100
    """Steps before the loss is judged, at least 16. Our choice: at a usual ratio of 1e-3 weights
    have moved a tenth of their size by then."""

    def __post_init__(self) -> None:
        self._require("ratio", "slow_ratio", least=0.0)
        self._require_order("ratio", "slow_ratio")
        self._require("progress", least=0.0, most=1.0)
        self._require("records", least=1, unit="watched step")
        self._require("patience", least=16, unit="steps")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        loss, names = loss_of_weights(history), weights(history)
        if isinstance(loss, str):
            return self.not_observed(loss)
        if loss.steps < self.patience:
            return self.not_observed(f"the run is shorter than {self.patience} steps")
        if loss.progress >= self.progress:
            return []
        fastest = self._fastest(history, names)
        if not fastest < self.slow_ratio or _is_excused(history, self.slow_ratio):
            return []
        is_straight = fastest >= self.ratio
        if is_straight and not _falls_straight(history.series("loss/train").values):
            return []
        return [self._found(history, names, loss, fastest)]

    def _found(self, history: History, names: list[str], loss: Loss, fastest: float) -> Finding:
        is_straight = fastest >= self.ratio
        limit = self.slow_ratio if is_straight else self.ratio
        window = history.window("update/ratio", self.records)
        first, last = window[0][0], window[-1][0]
        shape = "in a straight line, " if is_straight else ""
        return Finding(
            code=self.code,
            severity="suspect",
            message=(
                f"Updates are too small: in each of the {self.records} watched steps from "
                f"{first:,} to {last:,} nine of ten weights changed by at most "
                f"{shown(fastest)} of their size (threshold {shown(limit)}, usual 0.001), "
                f"and the loss went {shape}from {shown(loss.start)} to {shown(loss.now)} in "
                f"{loss.steps:,} steps."
            ),
            remedy=(
                "Multiply the learning rate by 10, until `update/ratio` is about 1e-3 or the "
                "loss falls clearly."
            ),
            places=tuple(sorted(names, key=lambda n: window[-1][1].get(n, 1.0))[:8]),
            steps=(first, last),
            evidence=Evidence(fastest, limit, last - first + 1, self.records),
        )

    def _fastest(self, history: History, names: list[str]) -> float:
        """Return the largest ratio of nine in ten weights over the newest records."""
        if not _nine_in_ten(history.last("update/ratio"), names) < self.slow_ratio:
            return math.inf
        window = history.window("update/ratio", self.records)
        if len(window) < self.records:
            return math.inf
        return max(_nine_in_ten(seen, names) for _, seen in window)


def _nine_in_ten(ratios: dict[str, float], names: list[str]) -> float:
    """Return the ratio that nine in ten of the weights do not exceed; infinite without any."""
    values = sorted(ratios[name] for name in names if name in ratios)
    return values[int(0.9 * (len(values) - 1))] if values else math.inf


def _is_excused(history: History, slow_ratio: float) -> bool:
    """Return whether small updates have another reason than the learning rate."""
    if history.last("gradient/total_norm").get("") == 0:
        return True
    for group in history.places("lr/value"):
        rates = history.series("lr/value", group).values
        is_rising = rates[-1] > 1.001 * rates[-min(len(rates), 10)]
        if is_rising or rates[-1] < 0.5 * max(rates):
            return True
    # What moved ten times as fast before has arrived, or broken down.
    return any(value > 10 * slow_ratio for value in typical_ratio(history).values)


def _falls_straight(losses: list[float]) -> bool:
    """Return whether a loss has fallen, and in its last quarter about as fast as in its first."""
    size = len(losses) // 4
    parts = [losses[i * size : (i + 1) * size] for i in range(4)]
    means = [fmean(part) for part in parts]
    error = math.sqrt(sum(pvariance(part) / size for part in (parts[0], parts[3])))
    early, late = means[0] - means[1], means[2] - means[3]
    return means[0] - means[3] > _SIGNIFICANT * error and 0.5 * early < late < 2 * early
