"""`LossOscillation`: a loss that swings up and down, by more than batches differ."""

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
from lightning_diag.rules.checks import read_checks, validation_metric
from lightning_diag.rules.course import SIGMA, Course, chance_level, once, read_course
from lightning_diag.rules.leap import samples_behind
from lightning_diag.rules.reading import shown, weights
from lightning_diag.rules.swing import calm_noise, detrended, falls, opposite, zigzag

_WINDOW = 128
"""Steps that are judged (our choice): a few dozen swings of a usual length."""
_TENTHS = 2.563
"""Range of a normal distribution without its upper and lower tenth, in standard deviations."""


_VALIDATIONS = 6
"""Validations whose swings can be told from a trend (our choice)."""
_CALMER = 3.0
"""Times the noise of the calmest eighth of the levels: losses of the same kind of batches, with
weights that moved less, differed by that (our choice)."""
_PART = 0.15
"""Share of the swings of training that validation must show to explain them (our choice)."""
_FEW = 16
"""Samples behind a loss below which batches alone make swings (our choice): of them, or where it is
not known, validation must show more."""
_PART_OF_FEW = 0.4
"""The same share for few samples (our choice): with two of them, runs whose batches alone differed
showed up to 0.29."""
_MANY = 64
"""Samples behind a loss from which on `_TAIL` is fair: of fewer, one may make the swing (our
choice)."""
_TAIL = 3.0
"""Times its mean by which the loss of single samples differs at most (our choice): 10 % of samples
that are wrong, and sure, make it 3; healthy runs that swung as much as this rule asks stayed below.
"""
_FAR = 10.0
"""Times the first loss beyond which a loss has diverged, whatever else it does (our choice)."""
_TURNS = 4
"""Turns of a slow wave: down, up, down and up again (our choice): one rise is an accident."""
_ERRORS = 4 * math.sqrt(2)
"""Standard errors of a level by which two must differ: four of their difference."""


@dataclass(frozen=True)
class LossOscillation(Rule):
    """A loss that bounces instead of settling, and not because batches differ.

    What it sees:
        *Fast*: around its trend over the newest 128 steps the loss swings with a standard deviation
        of `swing` of the first loss or more (or of what a model gets that tells no sample from
        another, if that is higher), and it reaches no new lows. Batches that differ make swings
        as well, so a second witness is needed: the swings are regular, so that the loss half a
        swing later lies on the other side (a correlation of `-regular` or below at some distance
        of up to 32 steps); or the newest validations, of which no batch is part, swing by half as
        much, and by 0.4 of the swings where losses are of fewer than 16 samples; or the typical
        weight changes by `ratio` of its size a step or more, and the loss was three times calmer at
        another time, or it swings by more than batches of so many samples can, which are 64 or
        more. The noise of single samples, the order of an epoch and rates that rise and fall have
        none of them. *Slow*: levels of 16 steps or more rise, fall and rise again by `swing` each,
        up to the newest quarter of the run, and by four times their standard error, as under too
        much momentum; rises after the learning rate rose are left out.

    Why it matters:
        Steps jump across the valley they should descend into (W10).

    What to do:
        Divide the learning rate by 3 to 10, lower the momentum, or let the rate decay.

    References:
        CS231n course notes, Neural Networks Part 3: the wiggle of the loss.
        Cohen et al., Gradient Descent on Neural Networks Typically Occurs at the Edge of
        Stability, 2021, arXiv:2103.00065.
    """

    code: ClassVar[str] = "loss-oscillation"
    needs: ClassVar[tuple[str, ...]] = ("loss/train",)
    uses: ClassVar[tuple[str, ...]] = ("lr/value", "target/std", "update/ratio")

    swing: float = 0.1
    """Standard deviation around the trend over the first loss, 0 or more. Our choice: settled runs
    at usual batch sizes stayed below 0.06; restless ones have no second witness."""
    regular: float = 0.5
    """Correlation of opposite sign that makes swings regular, 0 to 1. Our choice: 128 independent
    losses reach 0.25 at none of 32 distances."""
    ratio: float = 0.008
    """Update ratio with which swings come from the weights, 0 or more. Our choice: eight times
    the usual 1e-3 of the CS231n notes; settled healthy runs stayed below 0.006."""

    def __post_init__(self) -> None:
        self._require("swing", "ratio", least=0.0)
        self._require("regular", least=0.0, most=1.0)

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        course = read_course(history)
        if isinstance(course, str):
            return self.not_observed(course)
        if not course.from_start:
            return self.not_observed("the first steps of the run are not known")
        if course.steps < 3 * _WINDOW:
            return self.not_observed(f"the run is shorter than {3 * _WINDOW} steps")
        stamp = (self, course.last)
        return once(history, self.code, stamp, lambda: self._judge(history, course))

    def _judge(self, history: History, course: Course) -> list[Finding]:
        chance = chance_level(history, course)
        scale = course.start if chance is None else max(course.start, chance)
        seen = history.window("loss/train", _WINDOW)
        losses = [values[""] for _, values in seen]
        if not course.start > 0 or not all(map(math.isfinite, losses)):
            return []
        if median(losses) > _FAR * scale:
            return []  # what has diverged is another finding
        steps = (seen[0][0], seen[-1][0])
        return self._slow(history, course, scale) or self._fast(
            history, course, losses, steps, scale
        )

    def _slow(self, history: History, course: Course, scale: float) -> list[Finding]:
        """Judge levels that rise, fall and rise again."""
        part = course.levels
        least = max(self.swing * scale, _ERRORS * median(level.error for level in part))
        turns = zigzag([level.middle for level in part], least)
        # A last fall may be the end of it: what counts is how lately the loss was high.
        turns = turns[: len(turns) - len(turns) % 2]
        if len(turns) < _TURNS or turns[-1] < 0.75 * len(part):
            return []
        first, last = part[turns[-_TURNS]], part[turns[-1]]
        if any(first.first <= step <= last.last for step in _restarts(history, first.first)):
            return []
        told = ", ".join(shown(part[i].middle) for i in turns[-_TURNS:])
        text = (
            f"The loss rises and falls in slow waves: its level was {told} in turn from step "
            f"{first.first:,} to {last.last:,}, each time by {least / scale:.0%} or more of the "
            f"{shown(scale)} it began with (threshold {self.swing:.0%})."
        )
        legs = [abs(part[a].middle - part[b].middle) for a, b in pairwise(turns[-_TURNS:])]
        share, steps = min(legs) / scale, (first.first, last.last)
        return [self._found(text, steps, share, len(part))]

    def _fast(
        self,
        history: History,
        course: Course,
        losses: Sequence[float],
        steps: tuple[int, int],
        scale: float,
    ) -> list[Finding]:
        """Judge the swings around the trend of the newest losses."""
        quarter = _WINDOW // 4
        ends = median(losses[:quarter]), median(losses[-quarter:])
        rest = detrended(losses)
        ordered = sorted(rest)
        tenth = len(ordered) // 10
        deviation = (ordered[-1 - tenth] - ordered[tenth]) / _TENTHS
        if not deviation > self.swing * scale or ends[0] - ends[1] > deviation:
            return []
        why = (
            None
            if falls(course, scale)
            else self._witness(history, course, rest, deviation, scale)
            or self._beyond_batches(history, course, rest, median(losses))
        )
        if why is None:
            return []
        share = deviation / scale
        text = (
            f"The loss swings by {shown(deviation)} around {shown(median(losses))} in the "
            f"{steps[1] - steps[0] + 1} steps from {steps[0]:,} to {steps[1]:,}, {share:.0%} of "
            f"what it began with (threshold {self.swing:.0%}), without falling, and {why}."
        )
        return [self._found(text, steps, share, _WINDOW)]

    def _found(self, text: str, steps: tuple[int, int], share: float, count: int) -> Finding:
        return Finding(
            code=self.code,
            severity="suspect",
            message=text,
            remedy=(
                "Divide the learning rate by 3 to 10, lower the momentum, or let the rate "
                "decay with `torch.optim.lr_scheduler.CosineAnnealingLR`."
            ),
            places=(),
            steps=steps,
            evidence=Evidence(share, self.swing, steps[1] - steps[0] + 1, count),
        )

    def _witness(
        self,
        history: History,
        course: Course,
        rest: Sequence[float],
        deviation: float,
        scale: float,
    ) -> str | None:
        """Say what shows that the swings come from the weights, None if nothing does."""
        distance, worst = opposite(rest)
        if worst <= -self.regular:
            return (
                f"the swings are regular: {distance} steps later the loss is on the other side "
                f"(correlation {worst:.2f}, threshold {-self.regular:.2f})"
            )
        metric = validation_metric(history)
        values = [check.value for check in read_checks(history, metric)[-8:]] if metric else []
        if len(values) >= _VALIDATIONS:
            swing = median(abs(step) for step in detrended(values))
            part = _PART_OF_FEW if samples_behind(history) < _FEW else _PART
            if swing > max(0.5 * self.swing * scale, part * deviation):
                return f"validation swings as well, by {shown(swing)} (which no batch explains)"
        return None

    def _beyond_batches(
        self, history: History, course: Course, rest: Sequence[float], level: float
    ) -> str | None:
        """Say that large steps make larger swings than batches do, None if they do not."""
        moved = self._moved(history, course.last - _WINDOW)
        if moved < self.ratio:
            return None
        calm, samples = calm_noise(course), samples_behind(history)
        quarter, ordered = len(rest) // 4, sorted(rest)
        # From the quartiles, as those of a level are: few single samples make a long tail.
        spread = (ordered[-1 - quarter] - ordered[quarter]) / SIGMA
        told = (
            f"the typical weight changes by {shown(moved)} of its size a step (threshold "
            f"{shown(self.ratio)}, usual 0.001), while batches "
        )
        if spread > _CALMER * calm:
            return f"{told}alone differed by {shown(calm)}"
        most = _TAIL * level / math.sqrt(samples or 1)
        if samples >= _MANY and spread > most:
            return f"{told}of {samples} samples alone differ by {shown(most)} at most"
        return None

    def _moved(self, history: History, since: int) -> float:
        """Return the usual update ratio of the watched steps since a step."""
        names = weights(history)
        ratios = [
            median(values.get(name, 0.0) for name in names)
            for step, values in history.window("update/ratio", 16)
            if step >= since and names
        ]
        return median(ratios) if len(ratios) > 1 else 0.0


def _restarts(history: History, since: int) -> list[int]:
    """Return the steps since which a learning rate is twice as high as at the record before."""
    return [
        steps[i]
        for steps, rates in (history.series("lr/value", p) for p in history.places("lr/value"))
        for i in range(1, len(steps))
        if steps[i] >= since and rates[i] >= 2 * rates[i - 1]
    ]
