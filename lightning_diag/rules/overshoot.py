"""How a run shows that its steps overshoot: what `LearningRateTooHigh` looks for, one by one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from lightning_diag.finding import Severity
from lightning_diag.history import History, Series
from lightning_diag.rules.dead_relu import silenced_between, without_loops
from lightning_diag.rules.over_regularisation import decay_pull
from lightning_diag.rules.reading import (
    Loss,
    best_losses,
    centre,
    shown,
    travel,
    typical_ratio,
    weights,
)
from lightning_diag.rules.saturated_activation import hidden_calls

if TYPE_CHECKING:
    from lightning_diag.rules.learning_rate_too_high import LearningRateTooHigh

SUSTAINED = 10
"""Newest watched steps that must agree (our choice)."""
_NOTHING = 0.02
"""Progress below which nothing at all was won (our choice); a schedule may still save what has won
a little."""
_LEARNED = 0.5
"""Progress from which on units that died are no harm by themselves (our choice): it then takes
weights that moved `travel` times their size, or `jump` in one step."""
_NEARLY = 0.9
"""Progress from which on nobody needs to be told that smaller steps might do better (our
choice)."""
_SMALL = 0.1
"""Share of the first loss below which a loss that has risen is the noise of one near zero (our
choice)."""
_PAIR = 2
"""Samples of which batch norm makes 1 and -1, whatever they were: see `batch-norm-gap`."""
_LOOKS = 8
"""Looks at batch norm that must agree (our choice)."""
_SCATTER = 0.5
"""Distance of the means of so few samples from the running one (our choice): an image has many
positions, and less."""


class Harm(NamedTuple):
    """What large updates have done."""

    severity: Severity
    text: str
    """What happened, as the end of a sentence."""
    large: float
    """The update ratio that counts as large."""


@dataclass(frozen=True)
class Case:
    """A history and its update ratios, if they are asked for: reading them takes a while."""

    history: History
    loss: Loss
    rule: LearningRateTooHigh

    @cached_property
    def ratio(self) -> Series:
        """The typical update ratio at each watched step."""
        return typical_ratio(self.history)

    def harm(self) -> Harm | None:
        """Return what large updates have done, the worst first."""
        return (
            self._lost()
            or self._died()
            or self._saturated()
            or self._crawls()
            or self._cut_off()
            or self._wanders()
        )

    def is_decay(self) -> bool:
        """Return whether decay makes half of the newest updates, and they are large by it."""
        pull = max(decay_pull(self.history), default=0.0)
        return pull >= self.rule.ratio / 3 and 2 * pull >= median(self.ratio.values[-SUSTAINED:])

    def _is_large(self, *, is_lost: bool = False) -> bool:
        rule = self.rule
        known = [value for value in self.ratio.values if value < math.inf]
        if is_lost:  # by what came just before, not by the first steps of a run that went well
            return max(known[-SUSTAINED:], default=0.0) >= rule.ratio
        return max(known, default=0.0) >= rule.jump or travel(self.ratio, rule.ratio) >= rule.travel

    def _could_throw(self) -> bool:
        """Return whether some update could have changed its loss by as much as counts.

        To first order, and by Cauchy and Schwarz, it changes the loss by at most its norm times
        that of the gradient. What is not known does not speak for the updates.
        """
        losses = dict(zip(*self.history.series("loss/train"), strict=True))
        norms = dict(zip(*self.history.series("gradient/total_norm"), strict=True))
        shares = [
            norms[step] * math.hypot(*moved.values()) < self.rule.throw * abs(losses[step])
            for step, moved in self.history.window("update/norm", len(self.history))
            if step in norms and step in losses
        ]
        return not shares or not all(shares)

    def _normalises_pairs(self) -> bool:
        """Return whether batch norm works on two samples: then a loss says nothing of steps."""
        sizes = self.history.last("batch_norm/batch_size")
        pairs = [place for place, size in sizes.items() if size <= _PAIR]
        if not pairs:
            return False
        looks = self.history.window("batch_norm/mean_gap", _LOOKS)
        return any(centre(seen[p] for _, seen in looks if p in seen) >= _SCATTER for p in pairs)

    def _is_steady(self, least: float) -> bool:
        """Return whether the loss has been that high for as long as it takes to judge it."""
        newest = self.history.window("loss/train", self.rule.patience)
        return centre(values[""] for _, values in newest) > least

    def _lost(self) -> Harm | None:
        """Say what went wrong with the loss, if it did."""
        loss, rule = self.loss, self.rule
        if loss.now == math.inf:
            if not self._is_large(is_lost=True):
                return None
            text = f"the loss went from {shown(loss.start)} to {shown(loss.now)}"
            return Harm("bad", text, rule.ratio)
        if loss.steps < rule.patience or not loss.progress < 0.7 or not self._is_large():
            return None
        if self._normalises_pairs():
            return None
        return self._went() or self._gave_back() or self._rebounds() or self._stands()

    def _went(self) -> Harm | None:
        loss = self.loss
        if not loss.progress < -2.0 or not self._could_throw():
            return None
        text = f"the loss went from {shown(loss.start)} to {shown(loss.now)}"
        return Harm("bad", text, self.rule.ratio)

    def _gave_back(self) -> Harm | None:
        loss, losses = self.loss, best_losses(self.history)
        best = centre(losses)
        goal = best + self.rule.lost * (loss.start - best)
        # What was won must be more than the noise of a few batches, and so must what was lost.
        if not best < 0.7 * loss.start or not loss.now > goal or not self._is_steady(goal):
            return None
        if sum(value >= loss.now for value in losses) > 1:
            return None
        text = f"the loss is back at {shown(loss.now)}, after {shown(best)}"
        return Harm("bad", text, self.rule.ratio)

    def _rebounds(self) -> Harm | None:
        """Say that the loss stays at several times its best while steps are still large."""
        best = centre(best_losses(self.history))
        least = max(self.rule.rebound * best, _SMALL * self.loss.start)
        is_large = min(self.ratio.values[-SUSTAINED:]) >= self.rule.ratio / 3
        if not self.loss.now >= least or not is_large or not self._is_steady(least):
            return None
        text = f"the loss has risen to {shown(self.loss.now)}, after {shown(best)}"
        return Harm("suspect", text, self.rule.ratio)

    def _stands(self) -> Harm | None:
        loss, rule = self.loss, self.rule
        if not loss.progress < 0.1 or loss.steps < rule.standstill:
            return None
        if not self._is_steady(0.9 * loss.start) or not self._could_throw():
            return None
        text = f"the loss stands at {shown(loss.now)}, where it began"
        is_lost = loss.progress < _NOTHING and loss.steps >= 2 * rule.standstill
        return Harm("bad" if is_lost else "suspect", text, rule.ratio)

    def _died(self) -> Harm | None:
        history = self.history
        dead = history.last("dead_relu/fraction")
        if not max(dead.values(), default=0.0) >= self.rule.dead:
            return None
        dead = without_loops(dead, history.meta.get("sites", {}))
        place = max(dead, key=dead.__getitem__)
        if not dead[place] >= self.rule.dead:
            return None
        begin, end = silenced_between(history, place)
        near = [v for s, v in zip(*self.ratio, strict=True) if begin <= s < end]
        if self.loss.progress > _LEARNED and not self._is_large():
            return None
        if not self.rule.ratio <= max(near, default=0.0) < math.inf:
            return None
        text = f"{dead[place]:.0%} of the units of `{place}` died with them"
        return Harm("suspect", text, self.rule.ratio)

    def _saturated(self) -> Harm | None:
        rule = self.rule
        if self.loss.steps < rule.standstill or not self.loss.progress < 0.5:
            return None
        newest = self.history.last("activation/saturated_fraction")
        for place in hidden_calls(self.history):
            if newest.get(place, 0.0) >= rule.saturated:
                values = self.history.series("activation/saturated_fraction", place).values
                if values[0] < rule.saturated / 2 and self._is_large():
                    text = f"`{place}` has saturated for {values[-1]:.0%} of its inputs"
                    return Harm("suspect", text, rule.ratio)
        return None

    def _is_fast(self, least: float) -> bool:
        """Return whether the newest updates of the typical weight stay above some ratio."""
        newest = self.history.last("update/ratio")
        if not median(newest.get(name, 0.0) for name in weights(self.history)) >= least / 2:
            return False
        values = self.ratio.values[-SUSTAINED:]
        return len(values) == SUSTAINED and least <= min(values) <= max(values) < math.inf

    def _crawls(self) -> Harm | None:
        loss, rule = self.loss, self.rule
        if loss.steps < 2 * rule.standstill or not loss.progress < 0.5:
            return None
        if not self._is_fast(rule.sustained) or self._normalises_pairs() or not self._could_throw():
            return None
        text = f"the loss has only come from {shown(loss.start)} to {shown(loss.now)}"
        return Harm("suspect", text, rule.sustained)

    def _cut_off(self) -> Harm | None:
        loss, names = self.loss, weights(self.history)
        if loss.steps < self.rule.patience or not loss.progress < 0.3:
            return None
        if not _is_mostly_zero(self.history.last("gradient/norm"), names):
            return None
        window = self.history.window("gradient/norm", SUSTAINED)
        if len(window) < SUSTAINED or not all(_is_mostly_zero(seen, names) for _, seen in window):
            return None
        if not self._is_large():
            return None
        text = f"since then most weights get no gradient, and the loss is {shown(loss.now)}"
        return Harm("bad", text, self.rule.ratio)

    def _wanders(self) -> Harm | None:
        """A note: it learns, at a distance from the minimum that its steps keep up."""
        loss, rule = self.loss, self.rule
        if loss.steps < 2 * rule.standstill or not 0.5 <= loss.progress < _NEARLY:
            return None
        if not self._is_fast(rule.sustained / 4) or travel(self.ratio, rule.ratio) < rule.travel:
            return None
        slowest = shown(min(self.ratio.values[-SUSTAINED:]))
        course = f"{shown(loss.now)} after {shown(loss.start)}"
        text = f"the newest ten still by {slowest} or more; the loss has fallen, and is {course}"
        return Harm("note", text, rule.ratio)


def _is_mostly_zero(norms: dict[str, float], names: list[str]) -> bool:
    """Return whether at least half of the weights have a gradient of exactly zero."""
    return 2 * sum(norms.get(name) == 0 for name in names) >= len(names)
