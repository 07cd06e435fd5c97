"""`Underfitting`: a loss that settles high, in training and in validation alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import Any, ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.checks import Check, is_ripe, outnumbering, read_checks, validation_metric
from lightning_diag.rules.course import Course, chance_level, once, read_course
from lightning_diag.rules.reading import shown, typical_ratio

_TOGETHER = 0.15
"""Share of the chance level by which validation may differ from training to be as bad (our choice:
Amazon SageMaker Debugger calls a gap of 10 % overfitting, and sets differ by some per cent)."""
_FALL = 0.1
"""Share of itself by which a loss may have fallen from quarter to quarter to have settled (our
choice: what is left of it falls more slowly still)."""
_EPOCHS = 2.0
"""Times that the samples must have been seen (our choice): before that the model has not been shown
what there is to fit."""
_MOVED = 0.2
"""Share of their size that weights must have moved by, step by step, for the loss to have had
occasion to fall (our choice)."""
_STILL = 0.03
"""Share of the chance level by which a loss that stands still may have fallen (our choice)."""


@dataclass(frozen=True)
class Underfitting(Rule):
    """A loss that has settled far from zero, with no gap between training and validation.

    What it sees:
        After `patience` steps and two epochs the loss has hardly fallen in the newest half of the
        run, although the learning rate was at least a tenth of its highest and weights moved by a
        fifth of their size; it is still above `high` of what a model gets that tells no sample
        from another (where that is not known: of the first loss), and would be if it went on
        falling as in the
        newest quarter for twice as long; and the newest three validations, if there are any, are
        as bad. A `note`: numbers alone cannot tell a model that is too small from targets that
        hold so much noise. `suspect` where the loss surely stands still above `higher`, and the
        model has more trained weights than there are targets: it could learn them all by heart,
        so noise is not what holds it back.

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

    high: float = 0.3
    """Share of the chance level that counts as high, 0 to 1. Our choice: healthy runs went below a
    tenth, or had noise of their own."""
    higher: float = 0.5
    """Share of the chance level that is suspect, 0 to 1, no less than `high`. Our choice: half of
    what there is to learn."""
    learnt: float = 0.95
    """Share of the chance level above which nothing was learned, `higher` to 1: that is for
    `loss-plateau` to say, as in which (our choice)."""
    patience: int = 384
    """Steps before the loss is judged, at least 128. Our choice: then the flat half alone is as
    long as a healthy plateau."""

    def __post_init__(self) -> None:
        self._require("high", "higher", "learnt", least=0.0, most=1.0)
        self._require_order("high", "higher", "learnt")
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
        chance = chance_level(history, course)
        level = course.start if chance is None else chance
        now, fall = _newest(course)
        limit = self.high * level
        # Of as many steps again as in the newest half, each as good as those of the last quarter.
        if not limit < now - 2 * max(0.0, fall) or now > 1.5 * level or fall > _FALL * now:
            return []
        if course.best.middle > self.learnt * level or now - _low(course) > 0.1 * abs(level):
            return []
        if checks and abs(median(c.value - c.train for c in checks)) > _TOGETHER * level:
            return []
        if _epochs(history, course) < _EPOCHS or not _moves(history, course):
            return []
        if _is_slowed(history):
            return []
        part = course.newest(0.5)
        since, steps = part[0].first, part[-1].last - part[0].first + 1
        size, samples = outnumbering(history)
        could = 0 < samples < size and course.is_flat(0.5, _STILL * abs(level))
        could = could and now > self.higher * level
        also = f", validation at {shown(checks[-1].value)}" if checks else ""
        than = "the first loss was" if chance is None else "telling no sample from another gives"
        why = (
            f" The model has {size:,} weights for {samples:,} targets, so something else than its "
            "size holds it back."
            if could
            else " Either the model is too small, or the targets hold that much noise."
        )
        return [
            Finding(
                code=self.code,
                severity="suspect" if could else "note",
                message=(
                    f"The loss stands at {shown(now)} in training{also}: it has hardly "
                    f"fallen in the {steps:,} steps since {since:,}, "
                    f"and {than} {shown(level)} (threshold {shown(limit)}).{why}"
                ),
                remedy=(
                    "Train a model of twice the width: if its training loss is lower, this one is "
                    "too small; if not, look at the targets and the features."
                ),
                places=(),
                steps=(since, course.last),
                evidence=Evidence(now, limit, steps, len(part)),
            )
        ]


def _newest(course: Course) -> tuple[float, float]:
    """Return the level of the newest quarter of the run, and how far that is below the one before.

    Example:
        >>> from lightning_diag.rules.course import Level
        >>> levels = [Level(0, 15, 1.0, 1.0 - i / 100, 1.0, 16) for i in range(8)]
        >>> [round(value, 3) for value in _newest(Course(1.0, 0, 16, tuple(levels)))]
        [0.935, 0.02]
    """
    part = course.newest(0.5)
    half = max(1, len(part) // 2)
    before, newest = (
        median(level.middle for level in side) for side in (part[:-half], part[-half:])
    )
    return newest, before - newest


def _epochs(history: History, course: Course) -> float:
    """Return how often the samples have been seen, at most; infinite where that is not known."""
    losses: dict[str, dict[str, Any]] = history.meta.get("losses") or {}
    trainer: dict[str, Any] = history.meta.get("trainer") or {}
    rows = [known["input_shape"][0] for known in losses.values() if known.get("input_shape")]
    samples = history.meta.get("train_samples") or 0
    if not rows or not samples:
        return math.inf
    batches = (trainer.get("accumulate_grad_batches") or 1) * (trainer.get("world_size") or 1)
    return float(course.steps * max(rows) * batches / samples)


def _low(course: Course) -> float:
    """Return a level that a tenth of all are below."""
    ordered = sorted(level.middle for level in course.levels)
    return ordered[len(ordered) // 10]


def _is_slowed(history: History) -> bool:
    """Return whether a schedule has taken the learning rate down for half of the run or more."""
    for group in history.places("lr/value"):
        rates: list[Any] = history.series("lr/value", group).values
        if rates[len(rates) // 2] < 0.1 * max(rates):
            return True
    return False


def _moves(history: History, course: Course) -> bool:
    """Return whether weights moved by `_MOVED` of their size in the flat half, as far as known.

    Where they did not, the loss had no occasion to fall.
    """
    if not history.last("update/ratio"):
        return True
    since = course.newest(0.5)[0].first
    ratio = typical_ratio(history)
    values = [v for step, v in zip(*ratio, strict=True) if step >= since]
    return bool(values) and median(values) * (course.last - since) >= _MOVED
