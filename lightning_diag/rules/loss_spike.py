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
from lightning_diag.rules.course import Course, once, read_course
from lightning_diag.rules.reading import shown

_BEFORE = 64
"""Steps that a leap is compared with, as `loss/spike_count` does."""
_AFTER = 8
"""Steps that tell whether a leap lasts: fewer could all be odd batches (our choice)."""

_ODD = 2.5
"""Times `factor` for a single batch (our choice): hard samples of a trained model, whose loss was
low from the start, reached 1.2."""
_RECORDS = 12
"""Records that are looked through for counted spikes: at the usual spacing of 50 steps more than
`window` has, and cheap."""


class _Spike(NamedTuple):
    step: int
    loss: float
    level: float
    """Median of the steps before."""
    highest: float
    """Highest loss of the steps before."""
    lasted: int
    """Steps until the loss was below that again, at most those known."""


@dataclass(frozen=True)
class LossSpike(Rule):
    """A loss that leaps far above all that came before it.

    What it sees:
        Among the newest `window` steps one whose loss lies above the median of the 64 steps
        before by `factor` times as much as the highest of those does. If the eight steps after
        it stay up as well, and the leap undid `harm` of what training had won, it *lasts*: that
        is `suspect`. If they do not, it is one odd batch; that is a `note`, and only if the loss
        was `odd` times the first loss of the run and the leap 2.5 times as high again. Leaps with
        a rise of the learning rate, as at a warm restart, are left out. Batches that are odd again
        and again raise the highest of the 64, and are noise.

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

    factor: float = 4.0
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
        self._require("window", least=2 * _BEFORE, unit="steps")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        course = read_course(history)
        if isinstance(course, str):
            return self.not_observed(course)
        if course.steps < 2 * _BEFORE:
            return self.not_observed(f"the run is shorter than {2 * _BEFORE} steps")
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
        for i in range(_BEFORE, len(losses) - _AFTER):
            if spans is not None and not any(a < steps[i] <= b for a, b in spans):
                continue
            before = losses[i - _BEFORE : i]
            if not losses[i] > max(before) or not math.isfinite(sum(before)):
                continue
            if spikes and steps[i] - spikes[-1].step <= _AFTER:
                continue
            spike = self._spike(steps[i], losses[i], before, losses[i + 1 :], course)
            if spike and not any(a < spike.step <= b for a, b in _restarts(history, steps[0])):
                spikes.append(spike)
        return spikes

    def _spike(
        self,
        step: int,
        loss: float,
        before: Sequence[float],
        after: Sequence[float],
        course: Course,
    ) -> _Spike | None:
        level, highest = median(before), max(before)
        if not level + self.factor * (highest - level) < loss < math.inf:
            return None
        lasted = next((i for i, value in enumerate(after, 1) if value <= highest), len(after))
        stays_up = median(after[:_AFTER]) > level + self.harm * max(0.0, course.start - level)
        if stays_up and sorted(after[:_AFTER])[_AFTER // 4] > highest:
            return _Spike(step, loss, level, highest, max(lasted, _AFTER))
        is_far = loss > level + _ODD * self.factor * (highest - level)
        if is_far and loss > self.odd * course.start > 0:
            return _Spike(step, loss, level, highest, min(lasted, _AFTER - 1))
        return None

    def _found(self, spikes: list[_Spike], step: int, course: Course) -> Finding:
        lasting = [spike for spike in spikes if spike.lasted >= _AFTER]
        worst = max(lasting or spikes, key=lambda spike: spike.loss - spike.level)
        limit = worst.level + self.factor * (worst.highest - worst.level)
        again = f" It is one of {len(spikes)} since step {spikes[0].step:,}." * (len(spikes) > 1)
        until = (
            f"stayed up for {worst.lasted:,} steps or more"
            if lasting
            else f"was down again after {worst.lasted:,} steps"
        )
        return Finding(
            code=self.code,
            severity="suspect" if lasting else "note",
            message=(
                f"The loss leapt from about {shown(worst.level)} to {shown(worst.loss)} at step "
                f"{worst.step:,} (threshold {shown(limit)}; the {_BEFORE} steps before reached "
                f"{shown(worst.highest)}), and {until}.{again}"
            ),
            remedy=(
                "Look at the batch of that step, and set `Trainer(gradient_clip_val=1.0)`; if the "
                "loss stays up, go on from a checkpoint before the spike with a lower learning "
                "rate."
            ),
            places=(),
            steps=(spikes[0].step, min(step, spikes[-1].step + spikes[-1].lasted)),
            evidence=Evidence(worst.loss, limit, _BEFORE, len(spikes)),
        )


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
