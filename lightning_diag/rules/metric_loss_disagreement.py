"""`MetricLossDisagreement`: a loss that gets better while the metric gets worse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.checks import Check, metric_modes, read_checks, validation_metric
from lightning_diag.rules.course import once
from lightning_diag.rules.reading import shown

_NEWEST = 32
"""Validations that are compared, at most: the newest, since early ones say little (our choice)."""


@dataclass(frozen=True)
class MetricLossDisagreement(Rule):
    """A validation loss that falls while a metric of the same validations gets worse.

    What it sees:
        Over the newest validations, at least `validations` of them and at most 32, the loss falls
        and a metric gets worse: of all pairs of validations, those in which the one with the
        lower loss has the worse metric outnumber the others by `share` of all (Kendall's tau),
        and from the first third to the last both changed by `worse` of their own size or more, and
        by three times what they swing by from one validation to the next. The opposite, a
        loss that rises while the metric gets better, is common and none of this rule's: see
        `overfitting`. Metrics whose direction is not known are left out.

    Why it matters:
        Training makes the model better at something else than what is wanted: another target,
        weights of the classes, a metric that is computed from the wrong thing, or upside down.

    What to do:
        Compute the metric by hand on one batch; compare its inputs and targets with those of the
        loss; look at weights in the loss and at the threshold of the metric.

    References:
        Ben Braiek and Khomh, TheDeepChecker, 2023, arXiv:2204.00694 (correlation of loss and
        metric).
        Kendall, A New Measure of Rank Correlation, 1938.
    """

    code: ClassVar[str] = "metric-loss-disagreement"
    needs: ClassVar[tuple[str, ...]] = ("loss/train",)

    share: float = 0.5
    """Surplus of pairs that disagree, 0 to 1: the 0.5 that TheDeepChecker asks of a correlation."""
    worse: float = 0.05
    """Share of their own size by which loss and metric must have changed, 0 to 1. Our choice: less
    matters to few."""
    validations: int = 6
    """Validations before it is judged, at least 6: with fewer, chance gives such a surplus more
    often than once in fifty (our choice)."""

    def __post_init__(self) -> None:
        self._require("share", "worse", least=0.0, most=1.0)
        self._require("validations", least=6, unit="validations")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        loss = validation_metric(history)
        if loss is None:
            return self.not_observed("no validation loss was logged")
        modes = metric_modes(history)
        if not modes:
            return self.not_observed("no metric that should rise or fall was logged in validation")
        losses = read_checks(history, loss)
        if len(losses) < self.validations:
            return self.not_observed(f"there were fewer than {self.validations} validations")
        stamp = (self, losses[-1])
        return once(history, self.code, stamp, lambda: self._judge(history, losses, modes))

    def _judge(
        self, history: History, losses: Sequence[Check], modes: dict[str, str]
    ) -> list[Finding]:
        for metric, mode in modes.items():
            values = dict(zip(*history.series(metric), strict=True))
            pairs = [(c.step, c.value, values[c.step]) for c in losses if c.step in values]
            pairs = pairs[-_NEWEST:]
            pairs = [pair for pair in pairs if math.isfinite(pair[2])]
            if len(pairs) >= self.validations and self._disagree(pairs, mode):
                return [self._found(metric, pairs, mode)]
        return []

    def _disagree(self, pairs: Sequence[tuple[int, float, float]], mode: str) -> bool:
        """Return whether the loss fell, and the metric got worse by more than it swings."""
        sign = 1.0 if mode == "max" else -1.0
        losses = [loss for _, loss, _ in pairs]
        goods = [sign * value for _, _, value in pairs]
        third = len(pairs) // 3
        won = median(losses[:third]) - median(losses[-third:])
        lost = median(goods[:third]) - median(goods[-third:])
        size = max(abs(value) for value in goods)
        least = self.worse * max(abs(loss) for loss in losses)
        if not won > max(3 * _swing(losses), least):
            return False
        if not lost > max(3 * _swing(goods), self.worse * size):
            return False
        return _surplus(losses, goods) > self.share

    def _found(self, metric: str, pairs: Sequence[tuple[int, float, float]], mode: str) -> Finding:
        first, last = pairs[0], pairs[-1]
        sign = 1.0 if mode == "max" else -1.0
        surplus = _surplus([loss for _, loss, _ in pairs], [sign * v for _, _, v in pairs])
        return Finding(
            code=self.code,
            severity="suspect",
            message=(
                f"`{metric}` got worse, from {shown(first[2])} to {shown(last[2])}, while the "
                f"validation loss fell from {shown(first[1])} to {shown(last[1])}: over "
                f"{len(pairs)} validations from step {first[0]:,} to {last[0]:,} the two disagree "
                f"in {(1 + surplus) / 2:.0%} of all pairs (threshold {(1 + self.share) / 2:.0%})."
            ),
            remedy=(
                "Compute the metric by hand on one batch, and compare its inputs and targets "
                "with those of the loss; look at class weights and at the metric's threshold."
            ),
            places=(),
            steps=(first[0], last[0]),
            evidence=Evidence(surplus, self.share, last[0] - first[0] + 1, len(pairs)),
        )


def _swing(values: Sequence[float]) -> float:
    """Return by how much values typically differ from those before, less their trend."""
    steps = [after - before for before, after in pairwise(values)]
    middle = median(steps)
    return median(abs(step - middle) for step in steps)


def _surplus(losses: Sequence[float], goods: Sequence[float]) -> float:
    """Return Kendall's tau: 1 when each lower loss has the worse metric, -1 when the better."""
    n, total = len(losses), 0
    for i in range(n):
        for j in range(i):
            product = (losses[i] - losses[j]) * (goods[i] - goods[j])
            total += (product > 0) - (product < 0)
    return total / (n * (n - 1) / 2)
