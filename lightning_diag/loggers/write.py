"""Sends scalars to any Lightning logger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def scalars(loggers: Sequence[Any], values: Mapping[str, float], step: int) -> None:
    """Log scalars at the trainer's step; every logger has this much in common."""
    for logger in loggers:
        logger.log_metrics(dict(values), step=step)
