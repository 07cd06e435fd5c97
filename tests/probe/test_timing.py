"""Lengths of steps by a clock that tests wind by hand, also one that answers late (P19)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_diag.probe import clock as clocks
from lightning_diag.probe.clock import CudaClock, HostClock, clock_for
from lightning_diag.probe.schedule import Times
from lightning_diag.probe.timing import StepTimer, charged


class Clock:
    """Stands still until told; `known` is the moment up to which it gives answers."""

    def __init__(self) -> None:
        self.now = 0.0
        self.known = float("inf")
        self.stamps = 0

    def stamp(self) -> float:
        self.stamps += 1
        return self.now

    def seconds(self, start: float, end: float) -> float | None:
        return end - start if end <= self.known else None


class Steps:
    def __init__(self) -> None:
        self.clock = Clock()
        self.timer = StepTimer(self.clock)

    def take(self, *batches: float, watched: bool = False, between: float = 0.0) -> None:
        self.timer.begin_step(watched=watched)
        for batch in batches:
            self.timer.begin_batch()
            self.clock.now += batch
            self.timer.end_batch()
            self.clock.now += between
        self.timer.end_step()


@pytest.fixture
def steps() -> Steps:
    return Steps()


def test_a_watched_step_and_those_after_it_are_measured(steps: Steps) -> None:
    steps.take(5.0, watched=True)
    steps.take(2.0)
    steps.take(2.0)
    assert steps.timer.times() == Times(plain=2.0, watched=5.0)
    assert steps.timer.times().cost == 3.0


def test_the_cost_is_known_where_watched_and_other_steps_alternate(steps: Steps) -> None:
    """As they do in the beginning."""
    for _ in range(4):
        steps.take(5.0, watched=True)
        steps.take(2.0)
    assert steps.timer.times().cost == 3.0


def test_once_there_are_enough_the_first_step_after_a_watched_one_is_kept_apart(
    steps: Steps,
) -> None:
    """Caches are cold then, and numbers may still be on their way."""
    for _ in range(2):
        steps.take(5.0, watched=True)
        for _ in range(9):
            steps.take(2.0)
    for _ in range(15):
        steps.take(5.0, watched=True)
        steps.take(99.0)
    assert steps.timer.times() == Times(plain=2.0, watched=5.0, after=99.0)


def test_what_the_probe_does_in_the_hooks_of_a_plain_step_is_known_at_the_next(
    steps: Steps,
) -> None:
    """The last hook is still running when the step ends."""

    class Owner:
        timer = steps.timer

        @charged
        def hook(self, seconds: float) -> None:
            now[0] += seconds

    now, owner = [0.0], Owner()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.perf_counter", lambda: now[0])
        for watched in (True, False, False, True):
            steps.take(2.0, watched=watched)
            owner.hook(7.0 if watched else 0.5)
            owner.hook(0.25)
    assert steps.timer.times() == Times(plain=2.0, watched=2.0, hooks=0.75)


def test_nothing_is_known_in_the_beginning(steps: Steps) -> None:
    assert steps.timer.times() == Times()
    steps.take(1.0)
    assert steps.timer.times() == Times()
    assert steps.clock.stamps == 0


def test_only_eight_steps_after_a_watched_one_are_measured(steps: Steps) -> None:
    """On all others not even the clock is read."""
    steps.take(1.0, watched=True)
    for _ in range(9):
        steps.take(1.0)
    read = steps.clock.stamps
    assert read == 2 * 10
    for _ in range(100):
        steps.take(7.0)
    assert steps.clock.stamps == read
    assert steps.timer.times() == Times(1.0, 1.0)


def test_micro_batches_add_up_without_what_lies_between(steps: Steps) -> None:
    steps.take(1.0, 2.0, 3.0, watched=True, between=50.0)
    assert steps.timer.times().watched == 6.0


def test_every_step_may_be_watched(steps: Steps) -> None:
    for _ in range(20):
        steps.take(2.0, watched=True)
    assert steps.timer.times() == Times(0.0, 2.0)


def test_work_done_later_is_charged_to_the_watched_step(steps: Steps) -> None:
    steps.take(2.0, watched=True)
    steps.timer.add_cost(0.5)
    steps.timer.add_cost(0.25)
    steps.take(9.0)
    assert steps.timer.times() == Times(9.0, 2.75)


def test_work_is_never_charged_to_a_step_that_was_not_watched(steps: Steps) -> None:
    steps.timer.add_cost(9.0)
    steps.take(2.0, watched=True)
    steps.take(1.0)
    steps.take(1.0)
    steps.timer.add_cost(9.0)
    assert steps.timer.times() == Times(1.0, 2.0)
    steps.timer.add_cost(9.0)
    assert steps.timer.times() == Times(1.0, 2.0)


def test_lengths_that_are_not_known_yet_are_waited_for_in_order(steps: Steps) -> None:
    """A device answers when it gets there; nobody waits for it."""
    steps.clock.known = 2.0
    steps.take(2.0, watched=True)
    steps.take(1.0)
    steps.take(1.0)
    assert steps.timer.times() == Times(0.0, 2.0)
    steps.take(4.0, watched=True)
    assert steps.timer.times() == Times(0.0, 2.0)
    steps.clock.known = 4.0
    assert steps.timer.times() == Times(1.0, 2.0)
    steps.clock.known = 8.0
    assert steps.timer.times() == Times(1.0, 3.0)


def test_micro_batches_are_known_together_or_not_at_all(steps: Steps) -> None:
    steps.clock.known = 1.0
    steps.take(1.0, 2.0, watched=True)
    assert steps.timer.times() == Times()
    steps.clock.known = 3.0
    assert steps.timer.times().watched == 3.0


def test_a_step_that_was_cut_short_is_forgotten(steps: Steps) -> None:
    """The epoch ended within it, or its batch was skipped."""
    steps.timer.begin_step(watched=True)
    steps.timer.begin_batch()
    steps.clock.now += 100.0
    steps.take(2.0, watched=True)
    assert steps.timer.times() == Times(0.0, 2.0)
    steps.timer.begin_step(watched=True)
    steps.timer.end_step()
    steps.timer.end_batch()
    assert steps.timer.times() == Times(0.0, 2.0)


# Clocks ---------------------------------------------------------------------------------------


def test_the_host_clock_subtracts() -> None:
    moments = iter([3.0, 4.5])
    clock = HostClock(lambda: next(moments))
    start, end = clock.stamp(), clock.stamp()
    assert clock.seconds(start, end) == 1.5
    real = HostClock()
    assert (real.seconds(real.stamp(), real.stamp()) or 0.0) >= 0.0


class Event:
    """Stands in for an event of the device."""

    moments = iter([100.0, 350.0])
    reached: dict[float, bool]

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = next(self.moments)

    def query(self) -> bool:
        return self.reached[self.at]

    def elapsed_time(self, other: Event) -> float:
        assert self.query()
        assert other.query()
        return other.at - self.at


def test_the_device_clock_answers_when_both_moments_are_past(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(CudaClock, "_event", Event)
    reached = {100.0: False, 350.0: False}
    monkeypatch.setattr(Event, "reached", reached, raising=False)
    clock: Any = CudaClock()
    start, end = clock.stamp(), clock.stamp()
    assert clock.seconds(start, end) is None
    reached[100.0] = True
    assert clock.seconds(start, end) is None
    reached[350.0] = True
    assert clock.seconds(start, end) == 0.25


def test_every_device_has_a_clock() -> None:
    assert isinstance(clock_for(torch.device("cpu")), HostClock)
    assert isinstance(clock_for(torch.device("mps")), HostClock)
    assert isinstance(clock_for(torch.device("cuda", 1)), CudaClock)
    assert clocks.CudaClock._event is torch.cuda.Event
