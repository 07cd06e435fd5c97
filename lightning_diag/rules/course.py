"""The course of the training loss in a few dozen levels, and the loss of knowing nothing."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean, median
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from lightning_diag.history import History, Series
from lightning_diag.rules.reading import has_several_optimizers

T = TypeVar("T")

WIDTH = 16
"""Steps behind one level at least (our choice): their median is off by a third of the noise."""
_MOST = 64
"""Levels at most: enough to see a shape, few enough to be cheap."""
_PICKED = 64
"""Losses of one level that are looked at, at most."""
SIGMA = 1.349
"""Interquartile range of a normal distribution, in standard deviations."""


class Level(NamedTuple):
    """The losses of neighbouring steps."""

    first: int
    """Their first step."""
    last: int
    """Their last step."""
    low: float
    """Lower quartile."""
    middle: float
    """Median; infinite when most were not finite."""
    high: float
    """Upper quartile."""
    known: int
    """Finite losses behind it."""

    @property
    def sigma(self) -> float:
        """Standard deviation of one loss, from the quartiles."""
        return (self.high - self.low) / SIGMA

    @property
    def error(self) -> float:
        """Standard error of the median."""
        return 1.25 * self.sigma / math.sqrt(max(1, self.known))


@dataclass(frozen=True)
class Course:
    """How the loss went, in at most 64 levels of equal width."""

    start: float
    """The first loss."""
    begin: int
    """Its step; 0 unless the first part of the run is not known."""
    width: int
    """Steps behind one level."""
    levels: tuple[Level, ...]
    """From the first step on, the unfinished last one left out; at least one."""

    @property
    def now(self) -> Level:
        """The newest level."""
        return self.levels[-1]

    @property
    def last(self) -> int:
        """The last step that is part of a level."""
        return self.levels[-1].last

    @cached_property
    def best(self) -> Level:
        """The lowest level."""
        return min(self.levels, key=lambda level: level.middle)

    @property
    def from_start(self) -> bool:
        """Whether the first loss is that of the run's first step."""
        return self.begin == 0

    @cached_property
    def won(self) -> float:
        """How far the loss had fallen at best, below its first value; 0 or more."""
        return max(0.0, self.start - self.best.middle)

    @property
    def steps(self) -> int:
        """Steps that the levels span."""
        return self.last - self.begin + 1

    def newest(self, share: float) -> Sequence[Level]:
        """Return the levels of the newest `share` of the run, at least one."""
        return self.levels[-max(1, round(share * len(self.levels))) :]

    def is_flat(self, share: float, least: float) -> bool:
        """Return whether the loss surely fell by less than `least` in the newest `share` of it.

        Compared are the two halves of that part. Where noise is too large to tell, it is not flat.
        """
        part = self.newest(share)
        half = len(part) // 2
        if half < 2 or part[-1].middle == math.inf:
            return False
        fall = _centre(part[:half]) - _centre(part[-half:])
        error = median(level.error for level in part)
        # Two errors of the difference of two medians of medians.
        return fall + 2 * math.sqrt(2) * 1.25 * error / math.sqrt(half) < least


def _centre(levels: Sequence[Level]) -> float:
    return median(level.middle for level in levels)


_SEEN: WeakKeyDictionary[History, dict[str, tuple[Any, Any]]] = WeakKeyDictionary()


def once(history: History, name: str, stamp: object, make: Callable[[], T]) -> T:
    """Return `make()`, made again only when `stamp` has changed since the last call.

    A rule stays a pure function of the history as long as `stamp` tells all that `make` reads.
    """
    known = _SEEN.setdefault(history, {})
    found = known.get(name)
    if found is None or found[0] != stamp:
        found = known[name] = (stamp, make())
    made: T = found[1]
    return made


def read_course(history: History) -> Course | str:
    """Return the course of the loss, or why there is none."""
    if has_several_optimizers(history):
        return "several optimizers share one loss curve"
    newest = history.window("loss/train", 1)
    if not newest:
        return "`loss/train` was not measured"
    stamp = _Progress(len(history), newest[0][0], newest[0][1][""])
    memory = _SEEN.setdefault(history, {})
    seen, course = memory.get("course", (None, None))
    if seen is None or not seen.leads_to(stamp):
        course = make_course(history.series("loss/train"))
    elif course is None or stamp.step >= course.last + course.width:
        course = _longer(course, history, stamp.step) or make_course(history.series("loss/train"))
    memory["course"] = (stamp, course)
    return course or f"fewer than {WIDTH} losses are known"


def _longer(course: Course | None, history: History, step: int) -> Course | None:
    """Return a course with the levels that have been added, None if it must be made anew."""
    if course is None or (step - course.begin + 1) // course.width > _MOST:
        return None
    newest = history.window("loss/train", step - course.last)
    added = [(s, values[""]) for s, values in newest if s > course.last]
    steps, values = [s for s, _ in added], [value for _, value in added]
    levels = _levels(steps, values, course.last + 1, course.width)
    return replace(course, levels=(*course.levels, *levels)) if levels else None


class _Progress(NamedTuple):
    """How far a history had come when it was read."""

    records: int
    step: int
    loss: float

    def leads_to(self, later: _Progress) -> bool:
        """Return whether nothing that was read has been superseded since."""
        if later.records < self.records or later.step < self.step:
            return False
        return later.step > self.step or later.loss == self.loss or math.isnan(later.loss)


def make_course(losses: Series) -> Course | None:
    """Return the course of these losses, None with too few for one level."""
    steps, values = losses
    if len(values) < WIDTH:
        return None
    begin, width = steps[0], WIDTH
    while (steps[-1] - begin + 1) // width > _MOST:
        width *= 2
    levels = _levels(steps, values, begin, width)
    return Course(values[0], begin, width, tuple(levels)) if levels else None


def _levels(steps: Sequence[int], values: Sequence[float], begin: int, width: int) -> list[Level]:
    """Return the finished levels of losses, from the step `begin` on."""
    levels, start = [], 0
    for first in range(begin, steps[-1] + 2 - width, width):
        end = bisect_right(steps, first + width - 1, lo=start)
        if end > start:
            levels.append(_level(first, first + width - 1, values[start:end]))
        start = end
    return levels


def _level(first: int, last: int, values: Sequence[float]) -> Level:
    picked = values[:: math.ceil(len(values) / _PICKED)]
    finite = sorted(value for value in picked if math.isfinite(value))
    if 2 * len(finite) < len(picked):
        return Level(first, last, math.inf, math.inf, math.inf, len(finite))
    quarter = len(finite) // 4
    return Level(first, last, finite[quarter], median(finite), finite[-1 - quarter], len(finite))


_WHOLE = 0.1
"""Share by which the first loss may differ from what the loss function returned there and still be
all of it (our choice)."""


def chance_level(history: History, course: Course) -> float | None:
    """Return the loss of a model that tells no sample from another, None when it is not known.

    Known where one loss function, averaged, is the whole loss: the logarithm of the classes for
    cross-entropy, of two for binary cross-entropy, the variance of the targets for the squared
    error.
    """
    losses: dict[str, dict[str, Any]] = history.meta.get("losses") or {}
    if len(losses) != 1:
        return None
    ((place, known),) = losses.items()
    if known.get("reduction", "mean") != "mean" or known.get("weighted"):
        return None
    first = known.get("first") or {}
    part = first.get("output/loss", course.start) if first.get("step") == 0 else course.start
    if abs(part - course.start) > _WHOLE * abs(course.start):
        return None
    function, classes = str(known.get("function", "")), known.get("classes") or 0
    if function in {"cross_entropy", "nll_loss"}:
        return math.log(classes) if classes > 1 else None
    if function.startswith("binary_cross_entropy"):
        return math.log(2)
    spreads = [seen[place] for _, seen in history.window("target/std", 16) if place in seen]
    return _variance(spreads, known) if function == "mse_loss" and spreads else None


def _variance(spreads: Sequence[float], known: dict[str, Any]) -> float:
    """Return the variance of targets from the standard deviations of some batches.

    Of a few skewed samples it is mostly too small: the mean over batches is right, less the share
    that each batch's own mean takes.
    """
    rows = (known.get("input_shape") or [0])[0]
    return fmean(spread * spread for spread in spreads) * (rows / (rows - 1) if rows > 1 else 1.0)


def has_classes(history: History) -> bool:
    """Return whether all known loss functions are of classes, so that chance has little spread."""
    losses: dict[str, dict[str, Any]] = history.meta.get("losses") or {}
    functions = [str(known.get("function", "")) for known in losses.values()]
    return bool(functions) and all("cross_entropy" in name for name in functions)
