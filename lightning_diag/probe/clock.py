"""Lengths of steps, without waiting for the device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch


class Clock(Protocol):
    """Takes stamps now and turns two of them into seconds later."""

    def stamp(self) -> Any:
        """Mark this moment."""

    def seconds(self, start: Any, end: Any) -> float | None:
        """Return the seconds between two stamps, or None if they are not known yet."""


class HostClock:
    """Reads the process's own clock.

    Args:
        now: Gives the time in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now

    def stamp(self) -> float:
        """Mark this moment."""
        return self._now()

    def seconds(self, start: float, end: float) -> float | None:
        """Return the seconds between two stamps."""
        return end - start


class CudaClock:
    """Marks moments on the device's own timeline, so that neither side waits for the other."""

    _event: Any = torch.cuda.Event

    def stamp(self) -> Any:
        """Mark the moment at which the device will have done all work so far."""
        event = self._event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: Any, end: Any) -> float | None:
        """Return the seconds between two stamps that the device has passed."""
        if not (start.query() and end.query()):
            return None
        return float(start.elapsed_time(end)) / 1000.0


def clock_for(device: torch.device) -> Clock:
    """Return the clock that measures steps on `device`."""
    return CudaClock() if device.type == "cuda" else HostClock()
