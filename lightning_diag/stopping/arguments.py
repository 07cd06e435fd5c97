"""What `EarlyStoppingWindow` refuses: when it is made, and when training is about to begin."""

from __future__ import annotations

from typing import Any, get_args

from lightning_diag._compat import MisconfigurationException
from lightning_diag.stopping.trend import LEAST, Average, require_confidence

SHARDED = {"FSDPStrategy", "XLAFSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"}
"""Strategies whose ranks hold parts of the weights, by name, as in both namespaces."""
AVERAGING = {"WeightAveraging", "StochasticWeightAveraging"}
"""Callbacks that put an average into the module when training ends, by name."""


def check_arguments(
    *,
    window: int,
    average: str,
    confidence: float,
    trend_window: int | None,
    patience: int,
    min_delta: float,
    mode: str,
) -> None:
    """Refuse arguments that are out of range.

    Raises:
        ValueError: If one is.
    """
    require_confidence(confidence)
    problems = {
        f"`window` must be at least 2 checks, got {window}.": window < 2,
        f"`average` must be 'mean' or 'ema', got {average!r}.": average not in get_args(Average),
        f"`trend_window` must be at least {LEAST} checks or None, got {trend_window}.": (
            trend_window is not None and trend_window < LEAST
        ),
        f"`patience` must be at least 1 check, got {patience}.": patience < 1,
        f"`min_delta` must be at least 0, got {min_delta}.": not min_delta >= 0,
        f"`mode` must be 'min' or 'max', got {mode!r}.": mode not in ("min", "max"),
    }
    for message, broken in problems.items():
        if broken:
            raise ValueError(message)


def require_whole_weights(trainer: Any) -> None:
    """Refuse trainers in which no rank holds all weights, or that end with an average.

    Raises:
        MisconfigurationException: If `trainer` is one of these.
    """
    strategy = type(trainer.strategy)
    if SHARDED & {cls.__name__ for cls in strategy.__mro__}:
        raise MisconfigurationException(
            f"`restore_best` needs all weights on each rank, and {strategy.__name__} splits them: "
            "leave it out, and load the best checkpoint of ModelCheckpoint instead."
        )
    for callback in trainer.callbacks:
        if AVERAGING & {cls.__name__ for cls in type(callback).__mro__}:
            raise MisconfigurationException(
                "`restore_best` would overwrite the average that "
                f"{type(callback).__name__} ends the fit with: leave one of the two out."
            )
