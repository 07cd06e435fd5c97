"""`DivergingLoss`: a loss far above where it began, or back there after it had learnt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.finding import Evidence, Finding, Severity
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.course import WIDTH, Course, Level, chance_level, read_course
from lightning_diag.rules.reading import shown, typical_ratio

_CERTAIN = 10.0
"""Times `factor` beyond which a loss is lost without a second witness (our choice)."""
_LATELY = 64
"""Steps within which a run must have been lost for its last losses to be looked at (our choice)."""
_RUN_UP = 2
"""Losses in a row that show that it grew before it was lost (our choice): one may be a batch."""
_LOST = 0.3
"""Share of the chance level that a loss must reach which began far below it, as at the start of
fine-tuning (our choice, as `gain`)."""
_UPDATE = 0.03
"""Update ratio that counts as large, as in `learning-rate-too-high`."""


@dataclass(frozen=True)
class DivergingLoss(Rule):
    """A loss that has left for good where it began, or all that it had won.

    What it sees:
        After `patience` steps, three in four of the newest 16 losses are above `factor` times the
        first loss, and the loss is not on its way back. Or: the loss had fallen by `gain` of its
        first value or more, and has now lost `lost` of that again, in the newest 16 losses and in
        the two newest levels. The first kind needs a second witness: the loss is
        ten times further, or still rising, or updates were large. It is `bad` if the loss is as
        far above what a model gets that tells no sample from another, or, where that is not known,
        above the first 16 losses, or updates were large. A first loss that was low by
        luck, as with a batch of one sample, is none: then one in sixteen of the newest 32 is as
        low, or the loss has stood where it is since the first steps, without large updates. And
        it ran away, which is `bad`, if the last two finite losses or more lay ten times `factor`
        times above both, and none is finite since.

    Why it matters:
        Such a run seldom comes back; what is spent on it from here on is lost (W12).

    What to do:
        Stop, lower the learning rate, warm it up, clip gradients, and go on from a checkpoint
        before the rise. A loss that rises from the first step on may have the wrong sign.

    References:
        The documents behind this package: more than 3 times the initial loss ends a run.
        Chowdhery et al., PaLM, 2022, arXiv:2204.02311 (go back to a checkpoint before a rise).
    """

    code: ClassVar[str] = "diverging-loss"
    needs: ClassVar[tuple[str, ...]] = ("loss/train",)
    uses: ClassVar[tuple[str, ...]] = ("target/std", "update/ratio", "update/norm")

    factor: float = 3.0
    """Times the first loss that counts as diverged, at least 1 (W12)."""
    gain: float = 0.3
    """Share of the first loss that must have been won before losing it counts, 0 to 1. Our
    choice: more than the noise of a few batches."""
    lost: float = 0.9
    """Share of the gain that must be gone again, 0 to 1. Our choice: nearly all of it; healthy
    losses, restarts of the learning rate included, gave back less than a third for so long."""
    patience: int = 48
    """Steps before the loss is judged, at least 16. Our choice: healthy runs that start with a
    bump are over it after two or three dozen steps."""

    def __post_init__(self) -> None:
        self._require("factor", least=1.0)
        self._require("gain", "lost", least=0.0, most=1.0)
        self._require("patience", least=WIDTH, unit="steps")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        course = read_course(history)
        if isinstance(course, str):
            return self.not_observed(course)
        if not course.from_start:
            return self.not_observed("the first steps of the run are not known")
        newest = history.window("loss/train", WIDTH)
        if newest[-1][0] - course.begin < self.patience:
            return self.not_observed(f"the run is shorter than {self.patience} steps")
        finite = sorted(v[""] for _, v in newest if math.isfinite(v[""]))
        if len(finite) < WIDTH // 2:
            # What is not finite is for `non-finite` to tell; how it came to that is told here.
            known = [level for level in course.levels if level.middle < math.inf]
            finite = [known[-1].low, known[-1].middle] if known else [course.start]
            return self._run_away(history, course) or self._left(history, course, finite)
        return self._left(history, course, finite)

    def _left(self, history: History, course: Course, finite: Sequence[float]) -> list[Finding]:
        """Judge the newest finite losses, in order of size."""
        low, middle = finite[len(finite) // 4], finite[len(finite) // 2]
        if low > self.factor * course.start > 0 and not _is_usual(history, course.start):
            return self._grown(history, course, low, middle)
        goal = course.best.middle + self.lost * course.won
        if course.won > self.gain * abs(course.start) and low > goal:
            return self._lost(course, middle, goal, history.window("loss/train", 1)[0][0])
        return []

    def _grown(self, history: History, course: Course, low: float, middle: float) -> list[Finding]:
        before = [level for level in course.levels if level.middle < math.inf]
        if before and middle < 0.5 * before[-1].middle:
            return []
        chance = chance_level(history, course)
        scale = max(course.start, chance or 0.0)
        is_far = low > _CERTAIN * self.factor * scale
        is_rising = bool(before) and middle > 1.5 * before[0].middle
        is_shaken = not is_far and _peak(history) >= _UPDATE
        if not (is_far or is_rising or is_shaken):
            return []
        if low < (_LOST if chance else 0.0) * scale:
            return []  # a model that was good from the start, and met harder batches
        is_bad = low > self.factor * scale and (
            chance is not None or self._is_beyond(history, before, low)
        )
        first = next(
            (level.first for level in before if level.middle > self.factor * course.start),
            history.steps[-1],
        )
        limit = self.factor * course.start
        text = (
            f"The loss has grown to {shown(middle)}, {shown(middle / course.start)} times the "
            f"{shown(course.start)} of the first step (threshold {shown(self.factor)} times); "
            f"three in four of the newest {WIDTH} steps are above {shown(low)}."
        )
        steps = (first, history.steps[-1])
        return [self._found("bad" if is_bad else "suspect", text, steps, low, limit)]

    def _run_away(self, history: History, course: Course) -> list[Finding]:
        """Judge a loss that was gone within a few steps: the last finite ones were far away."""
        seen = [(step, v[""]) for step, v in history.window("loss/train", _LATELY)]
        end = next((i for i, (_, loss) in enumerate(seen) if not math.isfinite(loss)), len(seen))
        scale = max(course.start, chance_level(history, course) or 0.0)
        limit = _CERTAIN * self.factor * scale
        begin = end
        while begin and seen[begin - 1][1] > limit:
            begin -= 1
        if end - begin < _RUN_UP or end == len(seen) or not scale > 0:
            return []
        (first, low), (last, high) = seen[begin], seen[end - 1]
        text = (
            f"The loss ran away: {shown(low)} at step {first:,}, {shown(high)} at step {last:,} "
            f"(threshold {shown(limit)}, after {shown(course.start)} at first), and it is not "
            "finite since."
        )
        return [self._found("bad", text, (first, history.steps[-1]), high, limit)]

    def _is_beyond(self, history: History, before: Sequence[Level], low: float) -> bool:
        """Return whether a loss without a known chance level is far above its first sixteen.

        A first loss near zero is one batch that a trained model knew; no multiple of that is far.
        """
        if _peak(history) >= _UPDATE:
            return True
        return bool(before) and before[0].first == 0 and low > self.factor * before[0].high

    def _lost(self, course: Course, middle: float, goal: float, step: int) -> list[Finding]:
        if len(course.levels) < 3 or min(level.low for level in course.levels[-2:]) < goal:
            return []
        best = course.best
        first = next(level.first for level in course.levels if level.first > best.first)
        text = (
            f"The loss is back at {shown(middle)}, where it began ({shown(course.start)}), after "
            f"it had been down at {shown(best.middle)} in steps {best.first:,} to {best.last:,}: "
            f"more than {self.lost:.0%} of what was won is lost (threshold {shown(goal)})."
        )
        return [self._found("suspect", text, (first, step), middle, goal)]

    def _found(
        self, severity: Severity, text: str, steps: tuple[int, int], value: float, limit: float
    ) -> Finding:
        return Finding(
            code=self.code,
            severity=severity,
            message=text,
            remedy=(
                "Divide the learning rate by 3 to 10, warm it up, or set "
                "`Trainer(gradient_clip_val=1.0)`, and go on from a checkpoint before the rise. "
                "If the loss rose from the first step on, check its sign."
            ),
            places=(),
            steps=steps,
            evidence=Evidence(value, limit, steps[1] - steps[0] + 1, WIDTH),
        )


def _is_usual(history: History, start: float) -> bool:
    """Return whether losses as low as the first one still come: then it is one of them."""
    newest = history.window("loss/train", 2 * WIDTH)
    return 16 * sum(values[""] <= start for _, values in newest) >= len(newest)


def _peak(history: History) -> float:
    """Return the largest typical update ratio of the run; 0 when it was not measured."""
    if not history.last("update/ratio"):
        return 0.0
    values = typical_ratio(history).values
    return max((value for value in values if value < math.inf), default=0.0)
