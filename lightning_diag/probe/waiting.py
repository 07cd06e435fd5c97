"""Times how long training waits for its batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from lightning_diag.probe.clock import Clock, HostClock

_SAMPLES = 16
"""Fetches timed after each record on a device (our choice): marks on its timeline cost some
microseconds each. The host's clock is read at every fetch."""


class FetchTimer:
    """Measures the share of the time that passes in fetching the next batch.

    On the device's timeline a fetch costs nothing as long as the device has work left. The first
    fetch of an epoch, and what surrounds a validation, are left out.

    Args:
        clock: Measures on the host or on the device.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock, self._stamp = clock, clock.stamp
        self._on_host = isinstance(clock, HostClock)
        self._fetcher: Any = None
        self._kept: tuple[Callable[[], None], Callable[[], None]] | None = None
        self._last: tuple[Any, Any] | None = None
        self._start: Any = None
        self._cycles: deque[tuple[Any, Any, Any]] = deque()
        self._count = 0
        self._waited = self._passed = 0.0

    def attach(self, fetcher: Any) -> None:
        """Listen to a fetcher of Lightning's, until its next epoch or `detach`."""
        if getattr(fetcher, "_start_profiler", None) == self._begin:
            return
        self.detach()
        if hasattr(fetcher, "_start_profiler") and hasattr(fetcher, "_stop_profiler"):
            self._kept = fetcher._start_profiler, fetcher._stop_profiler
            fetcher._start_profiler, fetcher._stop_profiler = self._begin, self._end
            self._fetcher = fetcher

    def detach(self) -> None:
        """Leave the fetcher as it was. May be called at any time, and again."""
        fetcher, self._fetcher = self._fetcher, None
        is_ours = fetcher is not None and fetcher._start_profiler == self._begin
        if is_ours and self._kept is not None:
            fetcher._start_profiler, fetcher._stop_profiler = self._kept
        self._kept = None
        self.interrupt()

    def interrupt(self) -> None:
        """Leave out the time since the last fetch: something else happens."""
        self._last = self._start = None

    def _begin(self) -> None:
        if self._on_host:
            now = self._stamp()
            if self._last is not None:
                start, end = self._last
                self._waited += end - start
                self._passed += now - start
            self._start, self._last = now, None
        else:
            self._mark()
        if self._kept is not None:
            self._kept[0]()

    def _mark(self) -> None:
        """Begin a fetch on a device's timeline, if it is one of the few that are timed."""
        last, self._last, self._start = self._last, None, None
        if self._count >= _SAMPLES:
            return
        now = self._stamp()
        if last is not None:
            self._count += 1
            self._cycles.append((*last, now))
        if self._count < _SAMPLES:
            self._start = now

    def _end(self) -> None:
        if self._start is not None:
            self._last = (self._start, self._stamp())
        if self._kept is not None:
            self._kept[1]()

    def _settle(self) -> None:
        while self._cycles:
            start, end, after = self._cycles[0]
            waited = self._clock.seconds(start, end)
            passed = self._clock.seconds(start, after)
            if waited is None or passed is None:
                break
            self._cycles.popleft()
            self._waited += waited
            self._passed += passed

    def share(self) -> float | None:
        """Return the share of the time since the last call, 0 to 1; None if nothing was timed."""
        self._settle()
        waited, passed = self._waited, self._passed
        self._waited = self._passed = 0.0
        self._count = len(self._cycles)
        return min(1.0, waited / passed) if passed > 0 else None
