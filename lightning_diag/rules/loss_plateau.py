"""`LossPlateau`: a loss that never fell, or that stands still after it had lost what it won."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import Any, ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.checks import is_ripe
from lightning_diag.rules.course import Course, chance_level, once, read_course
from lightning_diag.rules.reading import shown

_CALM = 0.1
"""Noise over level up to which a loss can be that of a model that has learnt nothing (our choice).
Where all predictions are alike, losses differ little; those of a trained model, as at the start of
fine-tuning, differ by half of their level."""

_FALL = 0.02
"""Share of its level that a loss may have fallen by in half of the run to stand still (our choice);
two and a half times that while it is above chance, where a fall is no learning yet."""


@dataclass(frozen=True)
class LossPlateau(Rule):
    """A loss that has not moved since the start, or stands still far above its best.

    What it sees:
        *From the start*: after `patience` steps, and `share` of those planned if that is known,
        no level of the loss has been below `near` of what a model gets that tells no sample from
        another (the logarithm of the classes for cross-entropy, the variance of the targets for
        the squared error); where that is not known, below `near` of the first loss, with little
        noise. *Stuck*: the loss had fallen by `gain` or more, and in the newest quarter of the
        run, at least 128 steps, it stands at a level that gave back half of that or more. Either
        way it has not fallen in the newest half of what is judged. Silent while gradients grow:
        that is how a plateau ends. A loss that is flat because it is low, as after convergence
        or at the start of fine-tuning, is no plateau.

    Why it matters:
        Nothing is learned. A flat start that then falls is a bad initialisation; one that stays
        flat has a cause elsewhere: labels, a cut-off graph, a dead or saturated layer (W10).

    What to do:
        Overfit twenty samples first. If that fails, look at the gradients of the first layers,
        the initialisation and the learning rate; if it works, look at the labels.

    References:
        CS231n course notes, Neural Networks Part 3: shapes of the loss; overfit a tiny subset.
        Amazon SageMaker Debugger's LossNotDecreasing; TheDeepChecker (5 % over 5).
    """

    code: ClassVar[str] = "loss-plateau"
    needs: ClassVar[tuple[str, ...]] = ("loss/train",)
    uses: ClassVar[tuple[str, ...]] = ("gradient/total_norm", "target/std")

    near: float = 0.97
    """Share of the chance level, or of the first loss, that is no progress, 0 to 1. Our choice,
    stricter than the 5 % of TheDeepChecker: healthy runs on single samples take long for 4 %."""
    gain: float = 0.3
    """Share of the first loss that must have been won before standing above it counts, 0 to 1.
    Our choice, as in `diverging-loss`."""
    patience: int = 256
    """Steps before a flat start counts, at least 64. Our choice: healthy networks of sigmoids
    left their plateau after 100 to 250 steps."""
    share: float = 0.3
    """The same as a share of the steps planned, 0 to 1. Our choice."""

    def __post_init__(self) -> None:
        self._require("near", "gain", "share", least=0.0, most=1.0)
        self._require("patience", least=64, unit="steps")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        course = read_course(history)
        if isinstance(course, str):
            return self.not_observed(course)
        if not course.from_start:
            return self.not_observed("the first steps of the run are not known")
        trainer: dict[str, Any] = history.meta.get("trainer") or {}
        planned = max(0, trainer.get("max_steps") or 0)
        patience = max(self.patience, math.ceil(self.share * planned))
        if not is_ripe(history, course, patience):
            return self.not_observed(f"{patience:,} steps and two validations are not over yet")
        stamp = (self, course.last)
        return once(history, self.code, stamp, lambda: self._judge(history, course))

    def _judge(self, history: History, course: Course) -> list[Finding]:
        now, best = course.now.middle, course.best.middle
        if now == math.inf:
            return []
        chance = chance_level(history, course)
        limit = self.near * (course.start if chance is None else chance)
        is_level = limit < best and now < 1.5 * limit
        if not is_level or (chance is None and course.now.sigma > _CALM * now):
            return self._stuck(course) if course.won > self.gain * abs(course.start) else []
        # What falls towards chance from above forgets what it was wrongly sure of.
        still = _FALL * (2.5 if chance is not None and now >= chance else 1.0)
        if not limit > 0 or not course.is_flat(0.5, still * now) or _gradients_grow(history):
            return []
        what, than = (
            ("has not moved since the start", f"the first loss was {shown(course.start)}")
            if chance is None
            else (
                "is no better than chance",
                f"a model that tells no sample from another gets {shown(chance)}",
            )
        )
        text = (
            f"The loss {what}: it stands at {shown(now)}, and no level in {course.steps:,} steps "
            f"was below {shown(best)} (threshold {shown(limit)}; {than})."
        )
        return [self._found(text, (course.begin, course.last), best, limit, len(course.levels))]

    def _stuck(self, course: Course) -> list[Finding]:
        best, now = course.best, course.now.middle
        limit = best.middle + 0.5 * course.won
        part = course.newest(max(0.25, 128 / course.steps))
        if not min(level.low for level in part) > limit or now > 3 * abs(course.start):
            return []
        if best.first >= part[0].first or not course.is_flat(0.25, 0.05 * course.won):
            return []
        text = (
            f"The loss stands still at {shown(now)}, in the {part[-1].last - part[0].first + 1:,} "
            f"steps since {part[0].first:,}, after it had been down at {shown(best.middle)} "
            f"(threshold {shown(limit)}; it began at {shown(course.start)})."
        )
        return [self._found(text, (part[0].first, course.last), now, limit, len(part))]

    def _found(
        self, text: str, steps: tuple[int, int], value: float, limit: float, count: int
    ) -> Finding:
        return Finding(
            code=self.code,
            severity="suspect",
            message=text,
            remedy=(
                "See whether `Trainer(overfit_batches=1)` brings the loss down. If not, look at "
                "the gradients, the initialisation and the learning rate; if so, at the labels."
            ),
            places=(),
            steps=steps,
            evidence=Evidence(value, limit, steps[1] - steps[0] + 1, count),
        )


def _gradients_grow(history: History) -> bool:
    """Return whether gradients have doubled over the newest half of the records."""
    values = [
        value
        for value in history.series("gradient/total_norm").values
        if math.isfinite(value) and value > 0
    ]
    half = values[len(values) // 2 :]
    third = len(half) // 3
    return third >= 2 and median(half[-third:]) > 2 * median(half[:third])
