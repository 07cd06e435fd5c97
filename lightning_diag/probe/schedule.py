"""Which optimizer steps are watched, and what watching may cost (P19, P38).

Everything here is arithmetic on numbers that all ranks share, so all ranks decide alike.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Literal, get_args

_FIRST_STEPS = 4
"""Steps watched one after the other: enough that a run of 5 steps shows data."""
_GROWTH = 16
"""Then the spacing is a sixteenth of the step number: about 16 looks for each doubling and more,
because most faults show early (our choice)."""
_PAY_BACK = 4
"""Our choice: where more was spent than allowed, watching goes on at a quarter of the budget."""
_TO_COMPARE = 2
"""Spacing that leaves a step between, to compare with."""
_SAMPLES = 15
"""Lengths of steps kept for each median: the median of 15 is off by more than a third of the
spread once in twenty times (our choice)."""


@dataclass(frozen=True)
class Budget:
    """How often to look and what it may cost.

    Example:
        >>> Budget(every_n_steps=50).spacing(10), Budget(every_n_steps=50).spacing(160)
        (2, 10)
    """

    every_n_steps: int = 50
    """Optimizer steps between two looks once the run has settled, at least 1."""
    max_overhead: float = 0.01
    """Share of the training time that watching may cost, above 0."""
    startup_seconds: float = 5.0
    """Seconds that watching may cost beyond that share, in all, at least 0."""

    def __post_init__(self) -> None:
        if self.every_n_steps < 1:
            message = (
                f"`every_n_steps` must be at least 1 optimizer step, got {self.every_n_steps}."
            )
            raise ValueError(message)
        if not self.max_overhead > 0:
            message = (
                "`max_overhead` must be a share of the training time above 0, such as 0.01, "
                f"got {self.max_overhead}."
            )
            raise ValueError(message)
        if not self.startup_seconds >= 0:
            message = f"`startup_seconds` must be 0 seconds or more, got {self.startup_seconds}."
            raise ValueError(message)

    def spacing(self, step: int) -> int:
        """Return the steps from watched step `step` to the next, cost aside."""
        if step < _FIRST_STEPS - 1:
            return 1
        return min(self.every_n_steps, max(2, step // _GROWTH))

    def next_step(self, step: int, watched: int, times: Times, extra: float = 0.0) -> int:
        """Return the step to watch after `step`.

        Args:
            step: The step just watched, from 0.
            watched: Steps watched so far, this one included.
            times: What watched and unwatched steps take, the same on all ranks.
            extra: Seconds spent on more than watching steps, the same on all ranks.
        """
        wanted = step + self.spacing(step)
        if times.cost is None:
            # watching took at most all of the watched steps; two more may pass before it is known
            spent = (watched + 2) * times.watched + extra
            return wanted if spent <= self.startup_seconds else max(wanted, step + _TO_COMPARE)
        allowed = self.max_overhead * times.plain
        # where the hooks alone cost more than allowed, watching goes on at a quarter of the budget
        per_step = max(allowed - times.hooks, allowed / _PAY_BACK)
        spent = (watched + 1) * times.cost + extra - self.startup_seconds
        # a cost that has risen counts for all looks so far: without a limit there may be no more
        affordable = min(spent / per_step, step + _PAY_BACK * times.cost / per_step)
        return max(wanted, math.ceil(affordable))


@dataclass(frozen=True)
class Times:
    """Median lengths of steps, in seconds; 0 where none was measured."""

    plain: float = 0.0
    """Of a step that was not watched."""
    watched: float = 0.0
    """Of a watched one, with everything that followed from it."""
    after: float = 0.0
    """Of the first one after it, which finds the caches cold."""
    hooks: float = 0.0
    """Of the probe's own part in a step that was not watched."""

    @property
    def cost(self) -> float | None:
        """Seconds that watching adds to a step and the next; None until both were measured."""
        if self.plain <= 0 or self.watched <= 0:
            return None
        later = self.after - self.plain if self.after > 0 else 0.0
        return max(0.0, self.watched - self.plain + max(0.0, later))


Kind = Literal["plain", "watched", "after", "hooks"]
"""Which field of `Times` a length belongs to."""


class StepTimes:
    """Collects lengths of steps and gives their medians.

    Example:
        >>> times = StepTimes()
        >>> for seconds in (0.1, 0.1, 0.9):
        ...     times.add("plain", seconds)
        >>> times.add("watched", 0.15)
        >>> round(times.medians().cost, 3)
        0.05
    """

    def __init__(self) -> None:
        self._lengths: dict[Kind, deque[float]] = {
            kind: deque(maxlen=_SAMPLES) for kind in get_args(Kind)
        }

    def add(self, kind: Kind, seconds: float) -> None:
        """Add the length of one step."""
        self._lengths[kind].append(seconds)

    def medians(self) -> Times:
        """Return the median of the last steps of each kind."""
        return Times(**{kind: median(kept) for kind, kept in self._lengths.items() if kept})


def overhead(step: int, watched: int, times: Times, extra: float = 0.0) -> float | None:
    """Return the share of the training time that watching has cost, 0 or more.

    Args:
        step: Optimizer steps taken so far.
        watched: How many of them were watched.
        times: What watched and unwatched steps take.
        extra: Seconds spent on more than watching steps.
    """
    if times.cost is None or step < 1:
        return None
    looks = watched * times.cost + extra
    return (looks + step * times.hooks) / (step * times.plain + looks)
