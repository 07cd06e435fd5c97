"""`Probe`: one for each trainer, shared by all its watchers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from lightning_diag.history import History
from lightning_diag.probe.fit import Fit
from lightning_diag.probe.observer import WatcherLike
from lightning_diag.probe.run import Run


class Probe:
    """Holds the watchers of a trainer together: they share one fit under observation.

    Lightning's hooks reach that through the first watcher that joined.
    """

    _all: ClassVar[WeakKeyDictionary[Any, Probe]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._watchers: list[WatcherLike] = []
        self._fit: Fit | None = None
        self._state: dict[str, Any] = {}

    @classmethod
    def of(cls, trainer: Any) -> Probe:
        """Return the probe of `trainer`, a new one if it has none."""
        if trainer not in cls._all:
            cls._all[trainer] = cls()
        return cls._all[trainer]

    @classmethod
    def forget(cls, trainer: Any) -> None:
        """Let go of the trainer."""
        cls._all.pop(trainer, None)

    def join(self, watcher: WatcherLike) -> bool:
        """Take part; return whether this watcher passes on the trainer's hooks."""
        self._watchers.append(watcher)
        return len(self._watchers) == 1

    @property
    def fit(self) -> Fit | None:
        """The fit under way, None outside of one."""
        return self._fit

    @property
    def history(self) -> History | None:
        """The numbers of the fit under way."""
        return None if self._fit is None else self._fit.recorder.history

    @property
    def folder(self) -> Path | None:
        """Where the fit writes, None if it does not (on all ranks but the first, say)."""
        return None if self._fit is None else self._fit.recorder.folder

    def open(self, trainer: Any, module: Any) -> Fit:
        """Begin a fit. May raise: training has not begun."""
        if self._fit is None:
            self._fit = Fit(Run.of(trainer, module), self._watchers)
            for watcher in self._watchers:
                watcher.on_open(self)
        return self._fit

    def close(self) -> None:
        """Detach everything. May be called at any time, and again."""
        fit, self._fit = self._fit, None
        if fit is not None:
            self._state = fit.state_dict()
            fit.detach()
            for watcher in self._watchers:
                fit.guard.run(watcher, watcher.on_close)
            fit.recorder.close()

    def state_dict(self) -> dict[str, Any]:
        """Return counters, in plain values."""
        return self._state if self._fit is None else self._fit.state_dict()
