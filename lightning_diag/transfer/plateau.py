"""Whether a metric has stopped getting better, seen through a window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

from lightning_diag.stopping.trend import Level, is_better, level_of


class Plateau:
    """Says when the average of a metric has not improved for some checks.

    Args:
        window: Values that are averaged, at least 2.
        patience: Checks without an improvement, at least 1.
        min_delta: Change that is no improvement yet, at least 0.
        mode: ``min`` or ``max``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> plateau = Plateau(window=2, patience=1)
        >>> [plateau.add(value) for value in (3.0, 2.0, 1.0, 1.0, 1.0)]
        [False, False, False, False, True]
    """

    def __init__(
        self, *, window: int = 3, patience: int = 3, min_delta: float = 0.0, mode: str = "min"
    ) -> None:
        problems = {
            f"`window` must be at least 2 checks, got {window}.": window < 2,
            f"`patience` must be at least 1 check, got {patience}.": patience < 1,
            f"`min_delta` must be at least 0, got {min_delta}.": not min_delta >= 0,
            f"`mode` must be 'min' or 'max', got {mode!r}.": mode not in ("min", "max"),
        }
        for message, broken in problems.items():
            if broken:
                raise ValueError(message)
        self.window, self.patience, self.min_delta = window, patience, min_delta
        self.rises = mode == "max"
        self.begin()

    def begin(self) -> None:
        """Forget all values: a stage begins."""
        self._values: list[float] = []
        self._best: Level | None = None
        self._waited = 0

    def add(self, value: float) -> bool:
        """Take in a value; return whether there is a plateau now.

        A value that is not finite is no improvement.
        """
        self.is_best = False
        level = None
        if abs(value) < float("inf"):
            self._values = [*self._values, value][-12 * self.window :]
            level = level_of(self._values, self.window)
            if level is None:
                return False
        best = self._best
        if level is not None and (
            best is None
            or is_better(level, best, rises=self.rises, margin=self.min_delta, confidence=0.5)
        ):
            self._best, self._waited, self.is_best = level, 0, True
            return False
        self._waited += 1
        return self._waited >= self.patience

    is_best: bool = False
    """Whether the newest value made the best average."""

    def state_dict(self) -> dict[str, Any]:
        """Return plain values."""
        best = None if self._best is None else astuple(self._best)
        return {"values": list(self._values), "best": best, "waited": self._waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._values, self._waited = list(state["values"]), state["waited"]
        self._best = None if state["best"] is None else Level(*state["best"])
