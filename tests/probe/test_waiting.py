"""The share of the time that training waits for its data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lightning_diag.probe.clock import HostClock
from lightning_diag.probe.waiting import FetchTimer


class Fetcher:
    """Lightning's, as far as it is listened to."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.begin: Callable[[], None] = lambda: self.heard.append("start")
        self.end: Callable[[], None] = lambda: self.heard.append("stop")
        self._start_profiler, self._stop_profiler = self.begin, self.end


class Time:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def fetch(fetcher: Fetcher, time: Time, seconds: float, work: float) -> None:
    fetcher._start_profiler()
    time.now += seconds
    fetcher._stop_profiler()
    time.now += work


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def timer(time: Time) -> FetchTimer:
    return FetchTimer(HostClock(time))


def test_it_is_the_time_in_fetches_over_the_time_between_their_starts(
    timer: FetchTimer, time: Time
) -> None:
    fetcher = Fetcher()
    timer.attach(fetcher)
    for seconds in (1.0, 2.0, 5.0):
        fetch(fetcher, time, seconds, work=3.0)
    assert timer.share() == pytest.approx((1 + 2) / (4 + 5))
    assert timer.share() is None
    fetch(fetcher, time, 1.0, work=3.0)
    assert timer.share() == pytest.approx(5 / 8)


def test_what_surrounds_a_validation_and_a_new_epoch_is_left_out(
    timer: FetchTimer, time: Time
) -> None:
    fetcher = Fetcher()
    timer.attach(fetcher)
    fetch(fetcher, time, 1.0, work=3.0)
    timer.interrupt()
    time.now += 1000
    fetch(fetcher, time, 1.0, work=3.0)
    assert timer.share() is None
    fetcher._start_profiler, fetcher._stop_profiler = fetcher.begin, fetcher.end  # a new epoch
    time.now += 1000
    timer.attach(fetcher)
    fetch(fetcher, time, 1.0, work=3.0)
    assert timer.share() is None
    fetch(fetcher, time, 1.0, work=3.0)
    assert timer.share() == pytest.approx(1 / 4)


def test_lightning_still_hears_of_every_fetch_and_gets_its_own_back(
    timer: FetchTimer, time: Time
) -> None:
    fetcher = Fetcher()
    timer.attach(fetcher)
    timer.attach(fetcher)
    fetch(fetcher, time, 1.0, work=0.0)
    assert fetcher.heard == ["start", "stop"]
    timer.detach()
    timer.detach()
    assert fetcher._start_profiler is fetcher.begin
    assert fetcher._stop_profiler is fetcher.end


@pytest.mark.parametrize("fetcher", [None, object()])
def test_another_kind_of_fetcher_is_not_timed(timer: FetchTimer, fetcher: Any) -> None:
    timer.attach(fetcher)
    assert timer.share() is None
    timer.detach()


class DeviceClock:
    """Knows the length of a stretch only when the device is done with it."""

    def __init__(self, time: Time) -> None:
        self.time, self.done, self.stamps = time, False, 0

    def stamp(self) -> float:
        self.stamps += 1
        return self.time.now

    def seconds(self, start: float, end: float) -> float | None:
        return end - start if self.done else None


def test_on_a_device_few_fetches_are_marked_and_none_is_waited_for(time: Time) -> None:
    clock, fetcher = DeviceClock(time), Fetcher()
    timer = FetchTimer(clock)
    timer.attach(fetcher)
    for _ in range(100):
        fetch(fetcher, time, 1.0, work=1.0)
    assert clock.stamps == 33  # sixteen fetches and what ends them
    assert timer.share() is None
    clock.done = True
    assert timer.share() == pytest.approx(0.5)
