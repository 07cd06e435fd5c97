"""Scenarios: the pairs of a schedule and an accumulation that `lr_steps` leaves out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distributed.lr_steps import ALTERNATING, PAIRS, trained
from distributed.training import Seat


def matrix(seat: Seat) -> dict[str, Any]:
    """Train with each: bare, with a warm-up, resumed half way up."""
    return trained(seat, [pair for pair in PAIRS if pair not in ALTERNATING])


TOGETHER: list[Callable[[Seat], Any]] = [matrix]
ALONE: list[Callable[[Seat], Any]] = [matrix]
