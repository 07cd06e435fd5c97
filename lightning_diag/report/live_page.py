"""When the page of a run is written again while the run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable

from lightning_diag.warning import warn

SECONDS = 60.0
"""Seconds between two writings at least: often enough for who looks in from time to time."""
PART = 0.5
"""Part of what watching may cost that the page may. Our choice: the other half is for looking."""


class LivePage:
    """Writes a page now and then, seldom enough that it costs no more than it may.

    A large page stretches the minute: at 1 % of the training time, of which the page may take half,
    one that takes a second is written every 200 seconds.

    Args:
        share: Share of the training time that watching may cost, above 0.
        clock: Tells the time in seconds.

    Example:
        >>> seconds = iter([0.0, 59.0, 60.0, 61.0, 62.0])
        >>> page = LivePage(0.01, clock=lambda: next(seconds))
        >>> page.refresh(print), page.refresh(lambda: None), page.wait
        (0.0, 1.0, 200.0)
    """

    def __init__(self, share: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._clock = clock
        self._last = clock()
        self._is_off = False
        self.wait = SECONDS
        """Seconds from the end of one writing to the next."""

    def refresh(self, write: Callable[[], object]) -> float:
        """Write the page if it is time; return the seconds that it took, 0 if it was not.

        A page that cannot be written costs the page until the fit ends, and nothing else.
        """
        began = self._clock()
        if self._is_off or began - self._last < self.wait:
            return 0.0
        try:
            write()
        except Exception as error:  # noqa: BLE001  # whatever it is, training goes on
            self._is_off = True
            warn(f"The report is not refreshed until the end: {type(error).__name__}: {error}")
        self._last = self._clock()
        took = self._last - began
        self.wait = max(SECONDS, took / (PART * self._share))
        return took
