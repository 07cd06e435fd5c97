"""Dropout, and other noise in the network, that keeps a model from learning."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any, NamedTuple

from lightning_diag.finding import Evidence, Severity
from lightning_diag.history import History
from lightning_diag.rules.checks import Check, read_checks, validation_metric
from lightning_diag.rules.course import Course, chance_level, has_classes
from lightning_diag.rules.reading import shown, typical_ratio

_NEWEST = 3
"""Validations that must agree, as in `overfitting`."""
_FEWEST = 2
"""Validations that must agree where dropout is known to be strong (our choice)."""
_BATCH = 8
"""Samples of one call below which batch norm makes noise of its own, which `batch-norm-gap` tells
(our choice, as there)."""
_FIRST = 2.0
"""Times `dull` where the first validation stands in for the chance level (our choice): with
dropout that is too strong the last one is hardly better than the first."""
_LEARNT = 0.9
"""Share of the first loss below which something was learned (our choice)."""
_SLOW = 0.1
"""Share of the chance level by which a loss may still fall in half of a run (our choice)."""
_UNKNOWN = 3.0
"""Times `below` where the loss is not known to be that of classes: squared errors of a few hundred
samples differ from set to set by 7 % (our choice). So where no module drops anything."""
_LOST = 3.0
"""Times the first loss at which a run is lost: the usual sign of divergence (W12)."""
_BY_GRADIENT = frozenset({"SGD", "ASGD"})
"""Optimizers whose steps grow with the gradient."""


class Told(NamedTuple):
    """What there is to say of a run."""

    severity: Severity
    message: str
    remedy: str
    places: tuple[str, ...]
    steps: tuple[int, int]
    evidence: Evidence


@dataclass(frozen=True)
class Noise:
    """Noise in the network of a run. The thresholds are those of `over-regularisation`."""

    history: History
    course: Course
    below: float
    dull: float
    strong: float
    usual: float
    remedy: str
    """What to do about it."""

    @cached_property
    def known(self) -> Mapping[str, float] | None:
        """The probability of each module with dropout, None where that was not taken down."""
        known: Mapping[str, float] | None = self.history.meta.get("dropout")
        return known

    @cached_property
    def strongest(self) -> dict[str, float]:
        """The modules that drop `strong` or more."""
        return {place: p for place, p in (self.known or {}).items() if p >= self.strong}

    def is_lost(self) -> bool:
        """Return whether the loss of a run with strong dropout is far above its start."""
        return self.course.now.middle > _LOST * self.course.start > 0 and bool(self.strongest)

    def lost(self) -> Told | None:
        """Return what to say of a run that dropout has thrown off."""
        course, limit = self.course, _LOST * self.course.start
        losses = self.history.series("loss/train").values
        steps = self._steps_without(limit)
        # A loss that was never high, and then is NaN, has another cause.
        if not any(limit < v < math.inf for v in losses) or not steps < self.usual:
            return None
        first = next(level.first for level in course.levels if level.middle > limit)
        text = (
            f"Dropout so strong that the run was lost: {named(self.strongest)}. The loss went from "
            f"{shown(course.start)} to {shown(course.now.middle)} (threshold {_LOST:g} times). "
            f"Without dropout, the typical weight would have changed by {shown(steps)} of its size "
            f"a step until then or so (threshold {self.usual:g}): the learning rate is a usual one."
        )
        return self._because_strong("bad", text, first)

    def _steps_without(self, limit: float) -> float:
        """Return what the steps before the loss was above `limit` would have been without dropout.

        Steps of an optimizer that divides by the size of the gradient are as they were. NaN where
        they were not measured.
        """
        losses = self.history.series("loss/train")
        end = next((s for s, v in zip(*losses, strict=True) if not v <= limit), math.inf)
        ratios = zip(*typical_ratio(self.history), strict=True)
        before = [v for step, v in ratios if step < end]
        optimizers: list[dict[str, Any]] = self.history.meta.get("optimizers") or [{}]
        grows = str(optimizers[0].get("class")) in _BY_GRADIENT
        factor = amplified(self.strongest) if grows else 1.0
        return median(before) / factor if before else math.nan

    def holds_back(self) -> Told | None:
        """Return what to say of a run that stays bad in training and in validation."""
        history, course = self.history, self.course
        metric = validation_metric(history)
        known = read_checks(history, metric) if metric else []
        if len(known) < _FEWEST or _is_noise_of_batches(history):
            return None
        chance = chance_level(history, course)
        level = chance or min(course.start, known[0].value)
        # Without a chance level the first validation stands in, which may have learnt already.
        limit = level * self.dull * (1.0 if chance else _FIRST)
        half = [check.value for check in known[len(known) // 2 :]]
        fall = max(half) - min(half)
        if fall > _SLOW * level or min(check.value for check in known) < limit:
            return None  # it still learns, or did and lost it again
        if min(check.value for check in known[-_NEWEST:]) - (fall if chance else 0.0) < limit:
            return None
        if self.strongest and course.now.middle > limit and course.is_flat(0.5, _SLOW * level):
            text = f"Dropout so strong that the model does not learn: {named(self.strongest)}. "
            return self._because_strong("suspect", text + _standing(known[-1], level), 0)
        if not has_classes(history) and course.best.middle > _LEARNT * course.start:
            return None  # two sets of numbers differ as much before anything is learned
        return self._by_difference(known, level) if len(known) >= _NEWEST else None

    def _by_difference(self, known: Sequence[Check], level: float) -> Told | None:
        is_sure = has_classes(self.history) and self.known != {}
        below = self.below * (1.0 if is_sure else _UNKNOWN)
        shares = sorted(_share_below(known, i) for i in range(len(known) - _NEWEST, len(known)))
        least = shares[0] if shares[0] < 0.5 * below else median(shares)
        if not least > below:
            return None
        first, last = known[-_NEWEST].step, known[-1].step
        text = (
            f"Noise in training, such as dropout, keeps the model from learning: validation, "
            f"without that noise, is lower by {least:.0%} in the newest {_NEWEST} (threshold "
            f"{below:.0%}) but still bad. {_standing(known[-1], level)}"
        )
        evidence = Evidence(least, below, last - first + 1, _NEWEST)
        return Told("suspect", text, self.remedy, (), (first, last), evidence)

    def _because_strong(self, severity: Severity, text: str, first: int) -> Told:
        strong, last = self.strongest, self.course.last
        evidence = Evidence(max(strong.values()), self.strong, last - first + 1, len(strong))
        return Told(severity, text, self.remedy, tuple(strong), (first, last), evidence)


def named(strong: Mapping[str, float]) -> str:
    """Say where dropout is strongest, and what it does.

    Example:
        >>> named({"net.2": 0.9, "net.5": 0.95})
        '`net.5` drops 95 %, and multiplies what is left by 20 (2 such modules)'
    """
    place = max(strong, key=strong.__getitem__)
    kept = 1 - strong[place]
    text = f"`{place}` drops {100 * strong[place]:.0f} %"
    text += f", and multiplies what is left by {shown(round(1 / kept, 1))}" if kept > 0 else ""
    return text + (f" ({len(strong)} such modules)" if len(strong) > 1 else "")


def amplified(strong: Mapping[str, float]) -> float:
    """Return how many times larger these modules, one behind the other, make a typical gradient.

    Each is crossed once, forward or backward, on the way to the gradient of a weight. What it
    leaves is divided by the share q that it keeps: the mean stays, and the square grows by 1 / q.

    Example:
        >>> round(amplified({"net.2": 0.9, "net.5": 0.9}), 3)
        10.0
    """
    kept = math.prod(1 - p for p in strong.values())
    return 1 / math.sqrt(kept) if kept > 0 else math.inf


def _standing(check: Check, level: float) -> str:
    return (
        f"The training loss stands at {shown(check.train)}, that of validation at "
        f"{shown(check.value)} (telling no sample from another gives about {shown(level)})."
    )


def _is_noise_of_batches(history: History) -> bool:
    """Return whether norms over few samples make the noise that validation does not have."""
    return any(size < _BATCH for size in history.last("batch_norm/batch_size").values())


def _share_below(checks: Sequence[Check], i: int) -> float:
    """Return by which share a validation lies below training at its time, from below at most 0.

    A loss that falls was lower at the validation than in the mean of the steps before.
    """
    train = checks[i].train
    fall = max(0.0, checks[i - 1].train - train) if i else 0.0
    train -= fall / 2
    return 1 - checks[i].value / train if train > 0 else 0.0
