"""`LossSpike`: a loss that leaps up, for one batch or for longer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import ClassVar, NamedTuple

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.course import WIDTH, Course, chance_level, once, read_course
from lightning_diag.rules.leap import (
    BEFORE,
    FACTOR,
    LEARNED,
    Leap,
    ends_epoch,
    leap_at,
    samples_behind,
)
from lightning_diag.rules.reading import shown

_AFTER = 8
"""Steps that tell whether a leap lasts: fewer could all be odd batches (our choice)."""
_LATER = 24
"""Steps by which the loss is up again if a leap left the optimizer's moments wrong (our choice)."""
_SOON = 4
"""Steps that an odd batch may be followed by before its own step shows (our choice)."""
_BACK = 1.5
"""Times the level of the 16 steps before that shows a set-back (our choice): the noise of either
level is a fifth of it at most where losses differ by half."""
_SAMPLES = 16
"""Samples behind a loss from which on a hard one among them does not make it worse than that of
knowing nothing (our choice): one that is sure and wrong costs 20 or so."""

_ODD = 2.5
"""Times `factor` for a single batch (our choice): hard samples of a trained model, whose loss was
low from the start, reached 1.2."""
_RECORDS = 12
"""Records that are looked through for counted spikes: at the usual spacing of 50 steps more than
`window` has, and cheap."""


class _Spike(NamedTuple):
    leap: Leap
    lasted: int
    """Steps until the loss was below those before again, at most those known."""
    harm: str
    """What shows that it lasts, as the end of a sentence; empty if it does not."""


@dataclass(frozen=True)
class LossSpike(Rule):
    """A loss that leaps far above all that came before it.

    What it sees:
        Among the newest `window` steps one from which on the loss leaps, within three steps, above
        the median of the 64 before by `factor` times as much as the highest of those does. It is
        `suspect` if the loss is lost with it, or if the next eight steps or the sixteen after
        those stay up and undo `harm` of what training had won. Else it is one odd batch, and is
        told only if no harmless batch makes such a loss: `odd` times the first one, and a leap 2.5
        times as high again; or, of 16 samples and more, more than a model gets that knows nothing.
        That is `suspect` if the steps after it are half as high again as those before, and a `note`
        otherwise. Leaps with a rise of the learning rate, as at a warm restart, and those at the
        end of an epoch, where few samples may be left, are left out. Batches that are odd again
        and again raise the highest of the 64, and are noise. A leap from near the best level,
        without a rise of the learning rate and after steps of a usual size, points to its batch:
        large steps, slopes and numbers that end after it are its consequences.

    Why it matters:
        One bad batch can undo hundreds of steps, and leaves Adam's moments wrong for as long
        again; a spike that does not come back is how large runs are lost (P47).

    What to do:
        Look at the batch of that step; clip gradients; lower the learning rate, or the second
        beta of Adam. If the loss does not come back, go on from a checkpoint before the spike.

    References:
        Composer's KillLossSpike (twice the mean of the window) and Lightning's SpikeDetection
        (twice the mean of ten): the idea to tell lasting leaps from passing ones.
        Chowdhery et al., PaLM, 2022, arXiv:2204.02311.
    """

    code: ClassVar[str] = "loss-spike"
    needs: ClassVar[tuple[str, ...]] = ("loss/train",)
    uses: ClassVar[tuple[str, ...]] = ("loss/spike_count", "lr/value")

    factor: float = FACTOR
    """Times the highest of the 64 steps before, above their median, at least 1. Our choice: the
    heavy tail of single samples gave up to 3 in healthy runs."""
    harm: float = 0.1
    """Share of what was won that a lasting leap undid, 0 to 1. Our choice: less is soon made up."""
    odd: float = 3.0
    """Times the first loss that one batch must reach, at least 1: a loss that an untrained model
    does not have (W12)."""
    window: int = 512
    """Steps in which spikes are looked for, at least 128. Our choice: older ones have passed."""

    def __post_init__(self) -> None:
        self._require("factor", "odd", least=1.0)
        self._require("harm", least=0.0, most=1.0)
        self._require("window", least=2 * BEFORE, unit="steps")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        course = read_course(history)
        if isinstance(course, str):
            return self.not_observed(course)
        if course.steps < 2 * BEFORE:
            return self.not_observed(f"the run is shorter than {2 * BEFORE} steps")
        spans = _counted(history)
        if spans == []:
            return []
        step = history.window("loss/train", 1)[0][0]
        spikes = once(history, "spikes", (self, step), lambda: self._spikes(history, course, spans))
        return [self._found(spikes, step, course)] if spikes else []

    def _spikes(
        self, history: History, course: Course, spans: list[tuple[int, int]] | None
    ) -> list[_Spike]:
        seen = history.window("loss/train", self.window)
        steps, losses = [s for s, _ in seen], [v[""] for _, v in seen]
        spikes: list[_Spike] = []
        rising = (i for i in range(BEFORE, len(losses)) if losses[i] > losses[i - 1])
        for i in rising:
            if spans is not None and not any(a < steps[i] <= b for a, b in spans):
                continue
            if spikes and steps[i] - spikes[-1].leap.step <= _AFTER:
                continue
            leap = leap_at(steps, losses, i)
            spike = self._spike(leap, losses[i + 1 :], course) if leap else None
            if spike and not spike.harm:
                if not self._is_odd(spike.leap, history, course):
                    continue
                harm = _set_back(losses[i - WIDTH : i], losses[i + 1 :])
                spike = spike._replace(harm=harm, lasted=_LATER if harm else spike.lasted)
            if spike and not any(a < steps[i] <= b for a, b in _restarts(history, steps[0])):
                spikes.append(spike)
        return spikes

    def _spike(self, leap: Leap, after: Sequence[float], course: Course) -> _Spike | None:
        """Return what became of a leap, None if it is none, or if that is not yet known."""
        newest, later = after[:_AFTER], after[_AFTER:_LATER]
        is_lost = not math.isfinite(sum(newest))
        if not leap.loss > leap.above(self.factor) or (len(newest) < _AFTER and not is_lost):
            return None
        if is_lost:
            return _Spike(leap, len(after), "is not finite since")
        lasted = next((i for i, value in enumerate(after, 1) if value <= leap.highest), len(after))
        if self._is_up(leap, newest, course):
            lasted = max(lasted, _AFTER)
            return _Spike(leap, lasted, f"stayed up for {lasted:,} steps or more")
        if len(later) == _LATER - _AFTER and self._is_up(leap, later, course):
            first, last = leap.step + _AFTER + 1, leap.step + _LATER
            return _Spike(leap, _LATER, f"is up again from step {first:,} to {last:,}")
        return _Spike(leap, min(lasted, _AFTER - 1), "")

    def _is_up(self, leap: Leap, losses: Sequence[float], course: Course) -> bool:
        least = leap.level + self.harm * max(0.0, course.start - leap.level)
        return median(losses) > least and sorted(losses)[len(losses) // 4] > leap.highest

    def _is_odd(self, leap: Leap, history: History, course: Course) -> bool:
        """Return whether a leap of one batch is worth a note."""
        if leap.loss > max(leap.above(_ODD * self.factor), self.odd * course.start) > 0:
            return True
        chance, samples = chance_level(history, course), samples_behind(history)
        if chance is None or samples < _SAMPLES or ends_epoch(history, leap.step):
            return False
        nothing = max(course.start, chance)
        return leap.loss > nothing and leap.level <= LEARNED * nothing

    def _found(self, spikes: list[_Spike], step: int, course: Course) -> Finding:
        lasting = [spike for spike in spikes if spike.harm]
        worst = max(lasting or spikes, key=lambda spike: spike.leap.loss - spike.leap.level)
        leap, first = worst.leap, spikes[0].leap.step
        limit = leap.above(self.factor)
        again = f" It is one of {len(spikes)} since step {first:,}." * (len(spikes) > 1)
        steps = "a step" if worst.lasted == 1 else f"{worst.lasted:,} steps"
        until = worst.harm or f"was down again after {steps}"
        return Finding(
            code=self.code,
            severity="suspect" if lasting else "note",
            message=(
                f"The loss leapt from about {shown(leap.level)} to {shown(leap.loss)} at step "
                f"{leap.step:,} (threshold {shown(limit)}; the {BEFORE} steps before reached "
                f"{shown(leap.highest)}), and {until}.{again}"
            ),
            remedy=(
                "Look at the batch of that step, and set `Trainer(gradient_clip_val=1.0)`, or the "
                "threshold that `lightning_diag.GradientClipAdvisor` suggests; if the loss stays "
                "up, go on from a checkpoint before the spike with a lower learning rate."
            ),
            places=(),
            steps=(first, min(step, spikes[-1].leap.step + spikes[-1].lasted)),
            evidence=Evidence(leap.loss, limit, BEFORE, len(spikes)),
        )


def _set_back(before: Sequence[float], after: Sequence[float]) -> str:
    """Say how much higher the steps after an odd batch are, if they are, as the end of a sentence.

    After a leap that no harmless batch makes, less is needed than for it to last.
    """
    later = after[_SOON:_LATER]
    times = median(later) / median(before) if median(before) > 0 else 0.0
    if len(later) < _LATER - _SOON or times < _BACK:
        return ""
    so_much = f"{shown(times)} times as high as before"
    return f"the {len(later)} steps from the fifth after it on are {so_much}"


def _counted(history: History) -> list[tuple[int, int]] | None:
    """Return between which of the newest records a spike was counted, None if none are counted.

    The count takes every loss that is far from the 64 before it, so none of ours is missed.
    """
    counts = history.window("loss/spike_count", _RECORDS)
    if not counts:
        return None
    before = [-1, *(step for step, _ in counts)]
    return [(before[i], step) for i, (step, seen) in enumerate(counts) if seen.get("", 0.0) > 0]


def _restarts(history: History, since: int) -> list[tuple[int, int]]:
    """Return between which records the learning rate rose to twice its value or more."""
    series = [history.series("lr/value", group) for group in history.places("lr/value")]
    return [
        (steps[i - 1], steps[i] + _AFTER)
        for steps, rates in series
        for i in range(1, len(steps))
        if steps[i] >= since and rates[i] >= 2 * rates[i - 1]
    ]
