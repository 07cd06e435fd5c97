"""Times watched steps and a few of the others, so that the cost of watching is known (P19)."""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from lightning_diag.probe.clock import Clock
from lightning_diag.probe.schedule import Kind, StepTimes, Times

P = ParamSpec("P")

_PLAIN_SAMPLES = 8
"""Unwatched steps timed after each watched one (our choice): more would only cost."""

_ENOUGH = 15
"""Unwatched steps that make a median of their own (our choice, see `StepTimes`)."""


class Timed(Protocol):
    """Has a `StepTimer`."""

    timer: StepTimer


T = TypeVar("T", bound=Timed)


def charged(hook: Callable[Concatenate[T, P], None]) -> Callable[Concatenate[T, P], None]:
    """Add the time that `hook` takes to what the probe spends in a step that is timed."""

    @functools.wraps(hook)
    def timed(owner: T, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if not owner.timer.samples_hooks:
            hook(owner, *args, **kwargs)
            return
        began = time.perf_counter()
        hook(owner, *args, **kwargs)
        owner.timer.inside += time.perf_counter() - began

    return timed


class StepTimer:
    """Measures optimizer steps, from batch start to batch end, summed over micro-batches.

    Once there are enough others, the first step after a watched one is kept apart: caches are cold
    and numbers may still be on their way, which watching has to answer for. Where watched and other
    steps alternate it is all there is.

    Args:
        clock: Measures on the host or on the device.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._times = StepTimes()
        self._unread: deque[tuple[list[tuple[Any, Any]], float, Kind]] = deque()
        self._spans: list[tuple[Any, Any]] = []
        self._start: Any = None
        self._left = 0
        self._watched = False
        self._plain = 0
        self._was_plain = False
        self.active = False
        self.is_engaged = True
        """Whether there is anything to do when a step begins that is not watched."""
        self.inside = 0.0
        """Seconds that the probe has spent in the trainer's hooks in this step."""
        self.samples_hooks = False
        """Whether this step, if it is not watched, is one of the few whose hooks are timed."""

    def begin_step(self, *, watched: bool) -> None:
        """Begin a step, which is timed if it is watched or one of the few after that."""
        if self._was_plain:
            self._times.add("hooks", self.inside)
            self._was_plain = False
        self.inside = 0.0
        self._watched = watched
        self.active = self.is_engaged = watched or self._left > 0
        self._spans = []

    def begin_batch(self) -> None:
        """Begin a micro-batch of the step."""
        if self.active:
            self._start = self._clock.stamp()

    def end_batch(self) -> None:
        """End a micro-batch of the step."""
        if self.active and self._start is not None:
            self._spans.append((self._start, self._clock.stamp()))
            self._start = None

    def add_cost(self, seconds: float) -> None:
        """Charge the last watched step with work done for it after its end."""
        if self._unread and self._unread[-1][2] == "watched":
            spans, extra, kind = self._unread[-1]
            self._unread[-1] = (spans, extra + seconds, kind)

    def end_step(self) -> None:
        """End the step."""
        if not self.active:
            return
        kind: Kind = "watched"
        if self._watched:
            self._left = _PLAIN_SAMPLES + 1
        else:
            kind = "after" if self._left > _PLAIN_SAMPLES and self._plain >= _ENOUGH else "plain"
            self._left -= 1
            self._was_plain = kind == "plain"
            self._plain += self._was_plain
        self.samples_hooks = self._left > 0
        self.is_engaged = self.samples_hooks or self._was_plain
        self._unread.append((self._spans, 0.0, kind))
        self.active = False

    def times(self) -> Times:
        """Return the medians of all steps whose lengths are known by now."""
        while self._unread:
            spans, extra, kind = self._unread[0]
            lengths = [self._clock.seconds(start, end) for start, end in spans]
            known = [length for length in lengths if length is not None]
            if len(known) < len(lengths):
                break
            self._unread.popleft()
            if known:
                self._times.add(kind, sum(known) + extra)
        return self._times.medians()
