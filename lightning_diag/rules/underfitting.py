"""`Underfitting`: a loss that settles high, in training and in validation alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import Any, ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.checks import Check, is_ripe, read_checks, validation_metric
from lightning_diag.rules.course import Course, chance_level, once, read_course
from lightning_diag.rules.reading import parameters, shown, typical_ratio, weights

_TOGETHER = 0.1
"""Share of the first loss by which validation may differ from training to be as bad (our choice;
Amazon SageMaker Debugger calls a gap of 10 % overfitting)."""


@dataclass(frozen=True)
class Underfitting(Rule):
    """A loss that has settled far from zero, with no gap between training and validation.

    What it sees:
        After `patience` steps the loss has not fallen in the newest half of the run, although the
        learning rate was at least a tenth of its highest and weights moved by their own size; it
        is still above `high` of what a
        model gets that tells no sample from another (where that is not known: of the first
        loss), and the newest three validations, if there are any, are as bad. A `note`: numbers
        alone cannot tell a model that is too small from targets that hold so much noise.
        `suspect` where the model has more trained parameters than samples: it could learn them
        all by heart, so noise is not what holds it back.

    Why it matters:
        More training will not help; a larger model, other features or less noise may (W11).

    What to do:
        The experiment that tells: train a model of twice the width. If its training loss is lower,
        the model was too small; if not, look at the targets.

    References:
        Goodfellow et al., Deep Learning, 2016, section 5.2 (capacity, over- and underfitting).
    """

    code: ClassVar[str] = "underfitting"
    needs: ClassVar[tuple[str, ...]] = ("loss/train",)
    uses: ClassVar[tuple[str, ...]] = ("lr/value", "target/std", "update/norm", "update/ratio")

    high: float = 0.5
    """Share of the chance level that counts as high, 0 to 1. Our choice: half of what there is to
    learn; healthy runs went below a tenth, or had noise of their own."""
    learnt: float = 0.95
    """Share of the chance level above which nothing was learned, `high` to 1: that is for
    `loss-plateau` to say, as in which (our choice)."""
    patience: int = 384
    """Steps before the loss is judged, at least 128. Our choice: then the flat half alone is as
    long as a healthy plateau."""

    def __post_init__(self) -> None:
        self._require("high", "learnt", least=0.0, most=1.0)
        self._require_order("high", "learnt")
        self._require("patience", least=128, unit="steps")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        course = read_course(history)
        if isinstance(course, str):
            return self.not_observed(course)
        if not course.from_start:
            return self.not_observed("the first steps of the run are not known")
        if not is_ripe(history, course, self.patience):
            return self.not_observed(f"{self.patience} steps and two validations are not over yet")
        metric = validation_metric(history)
        checks = read_checks(history, metric)[-3:] if metric else []
        stamp = (self, course.last, *checks[-1:])
        return once(history, self.code, stamp, lambda: self._judge(history, course, checks))

    def _judge(self, history: History, course: Course, checks: list[Check]) -> list[Finding]:
        now, chance = course.now.middle, chance_level(history, course)
        level = course.start if chance is None else chance
        limit = self.high * level
        if not limit < now <= 1.5 * level or now - course.best.middle > 0.1 * abs(level):
            return []
        if course.best.middle > self.learnt * level or _is_slowed(history):
            return []
        if not course.is_flat(0.5, 0.03 * abs(level)) or not _moves(history, course):
            return []
        if any(abs(check.value - now) > _TOGETHER * level for check in checks):
            return []
        part = course.newest(0.5)
        size = sum(math.prod(parameters(history)[name]["shape"]) for name in weights(history))
        samples = history.meta.get("train_samples") or 0
        could = 0 < samples < size
        also = f", validation at {shown(checks[-1].value)}" if checks else ""
        than = "the first loss was" if chance is None else "telling no sample from another gives"
        why = (
            f" The model has {size:,} weights for {samples:,} samples, so something else than its "
            "size holds it back."
            if could
            else " Either the model is too small, or the targets hold that much noise."
        )
        return [
            Finding(
                code=self.code,
                severity="suspect" if could else "note",
                message=(
                    f"The loss has settled at {shown(now)} in training{also}: it has not fallen "
                    f"in the {part[-1].last - part[0].first + 1:,} steps since {part[0].first:,}, "
                    f"and {than} {shown(level)} (threshold {shown(limit)}).{why}"
                ),
                remedy=(
                    "Train a model of twice the width: if its training loss is lower, this one is "
                    "too small; if not, look at the targets and the features."
                ),
                places=(),
                steps=(part[0].first, course.last),
                evidence=Evidence(now, limit, part[-1].last - part[0].first + 1, len(part)),
            )
        ]


def _is_slowed(history: History) -> bool:
    """Return whether a schedule has taken the learning rate down for half of the run or more."""
    for group in history.places("lr/value"):
        rates: list[Any] = history.series("lr/value", group).values
        if rates[len(rates) // 2] < 0.1 * max(rates):
            return True
    return False


def _moves(history: History, course: Course) -> bool:
    """Return whether weights moved by their own size in the flat half, as far as is known.

    Where they did not, the loss had no occasion to fall.
    """
    if not history.last("update/ratio"):
        return True
    since = course.newest(0.5)[0].first
    ratio = typical_ratio(history)
    values = [v for step, v in zip(*ratio, strict=True) if step >= since]
    return bool(values) and median(values) * (course.last - since) >= 1.0
