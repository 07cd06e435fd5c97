"""`MetricLossDisagreement`: a metric that gets worse as the loss falls, or that cannot be true."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any, ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.checks import (
    Check,
    is_accuracy,
    metric_modes,
    read_checks,
    validation_metric,
)
from lightning_diag.rules.course import chance_level, has_classes, once, read_course
from lightning_diag.rules.reading import shown

_NEWEST = 32
"""Validations that are compared, at most: the newest, since early ones say little (our choice)."""
_AGREE = 3
"""Newest validations in which an accuracy must be too low, as in `overfitting`."""
_SCALE = 0.25
"""Share of the training loss below which a validation loss is in another unit (our choice)."""


@dataclass(frozen=True)
class MetricLossDisagreement(Rule):
    """A validation loss that falls while a metric gets worse, or says the opposite.

    What it sees:
        Two shapes. *Too low*: in the newest three validations an accuracy is lower than the loss
        allows, by `apart`. A model whose loss is L gives the right class a probability of
        exp(-L), in the geometric mean, and one whose probabilities are true is right at least as
        often; so cross-entropy of 0.05 and an accuracy of 0.1 cannot both be of the same
        predictions. Judged only where cross-entropy of classes, averaged and not weighted, is the
        whole loss, where exp(-L) is above the share of the most frequent class by as much, and
        where the accuracy has not risen since the first validations by half of `apart`.
        *Opposite*: over the newest validations, at least `validations` and at most 32, the loss
        falls and a metric gets worse: of all pairs of validations, those in which the one with
        the lower loss has the worse metric outnumber the others by `share` of all (Kendall's
        tau), and from the first third to the last both changed by `worse` of their own size or
        more, and by three times what they swing by from one validation to the next. A loss that
        rises while the metric gets better is common and none of this rule's: see `overfitting`.
        Metrics whose direction is not known are left out.

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
        Cover and Thomas, Elements of Information Theory, 2006, section 2.6: by Jensen's inequality
        the mean of the largest probability is at least exp(-entropy).
    """

    code: ClassVar[str] = "metric-loss-disagreement"
    needs: ClassVar[tuple[str, ...]] = ("loss/train",)
    uses: ClassVar[tuple[str, ...]] = ("class/majority_share", "target/std")

    share: float = 0.5
    """Surplus of pairs that disagree, 0 to 1: the 0.5 that TheDeepChecker asks of a correlation."""
    worse: float = 0.05
    """Share of their own size by which loss and metric must have changed, 0 to 1. Our choice: less
    matters to few."""
    validations: int = 6
    """Validations before it is judged, at least 6: with fewer, chance gives such a surplus more
    often than once in fifty (our choice)."""
    apart: float = 0.2
    """Accuracy that is missing, 0 to 1. Our choice: four standard errors of an accuracy over a
    hundred samples; healthy runs stayed above what their loss allows."""

    def __post_init__(self) -> None:
        self._require("share", "worse", "apart", least=0.0, most=1.0)
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
        if len(losses) <= _AGREE:
            return self.not_observed(f"there were fewer than {_AGREE + 1} validations")
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
            if is_accuracy(metric) and self._is_too_low(history, losses, pairs):
                return [self._impossible(metric, pairs)]
            if len(pairs) >= self.validations and self._disagree(pairs, mode):
                return [self._found(metric, pairs, mode)]
        return []

    def _is_too_low(
        self, history: History, losses: Sequence[Check], pairs: Sequence[tuple[int, float, float]]
    ) -> bool:
        """Return whether an accuracy is lower than the loss allows, and has been from the first."""
        if len(pairs) <= _AGREE:
            return False
        newest = pairs[-_AGREE:]
        if any(_allowed(loss) - value < self.apart for _, loss, value in newest):
            return False
        shares = history.last("class/majority_share").values()
        least = _allowed(max(loss for _, loss, _ in newest))
        risen = min(value for _, _, value in newest) - min(v for _, _, v in pairs[:_AGREE])
        return (
            least - max(shares, default=0.0) >= self.apart
            and risen < self.apart / 2
            and losses[-1].value >= _SCALE * losses[-1].train
            and _is_cross_entropy(history)
        )

    def _impossible(self, metric: str, pairs: Sequence[tuple[int, float, float]]) -> Finding:
        newest = pairs[-_AGREE:]
        missing = min(_allowed(loss) - value for _, loss, value in newest)
        step, loss, value = newest[-1]
        return Finding(
            code=self.code,
            severity="suspect",
            message=(
                f"`{metric}` is {shown(value)}, where the validation loss of {shown(loss)} says "
                f"that about {_allowed(loss):.0%} or more of the predictions are right: in the "
                f"newest {_AGREE} validations at least {missing:.0%} are missing (threshold "
                f"{self.apart:.0%}). The metric is worked out from something else than the loss, "
                "or the wrong way."
            ),
            remedy=(
                "Compute the metric by hand on one batch, and compare its inputs and targets "
                "with those of the loss: order, dimension, average."
            ),
            places=(),
            steps=(pairs[0][0], step),
            evidence=Evidence(missing, self.apart, step - pairs[0][0] + 1, _AGREE),
        )

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


def _allowed(loss: float) -> float:
    """Return the share of predictions that are right if the probabilities behind a loss are true.

    Example:
        >>> _allowed(0.0), round(_allowed(0.693), 2)
        (1.0, 0.5)
    """
    return math.exp(-max(0.0, loss))


def _is_cross_entropy(history: History) -> bool:
    """Return whether plain cross-entropy over classes is the whole loss."""
    course = read_course(history)
    if isinstance(course, str) or chance_level(history, course) is None:
        return False
    losses: dict[str, dict[str, Any]] = history.meta["losses"]
    for known in losses.values():
        function, shape = str(known.get("function", "")), tuple(known.get("input_shape") or ())
        # Of several answers a sample, an accuracy may count those that are all right.
        if function.startswith("binary_cross_entropy") and shape[1:] not in ((), (1,)):
            return False
        if not function.startswith("binary_cross_entropy") and not has_classes(history):
            return False
    return True


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
