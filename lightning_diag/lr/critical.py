"""The batch size from on which a larger batch helps less, and what that does to scaling rules."""

from __future__ import annotations

import math
from typing import Any

from lightning_diag.history import History
from lightning_diag.lr.factors import best_gain

_NOISE_SCALE = "gradient/noise_scale"


def measured_noise_scale(trainer: Any) -> float | None:
    """Return the newest noise scale that a callback measures, in samples; None without any.

    The largest, if several optimizers have one.
    """
    return max(_of_gradients(trainer) or _of_neighbours(trainer), default=None)


def _of_gradients(trainer: Any) -> list[float]:
    """Return what `GradientNoiseScale` knows."""
    known = [getattr(callback, "noise_scales", None) or {} for callback in trainer.callbacks]
    scales = [scale.samples or 0.0 for each in known for scale in each.values()]
    return [scale for scale in scales if 0 < scale < math.inf]


def _of_neighbours(trainer: Any) -> list[float]:
    """Return what a history knows; it grows with how far weights move between two steps."""
    histories = [getattr(callback, "history", None) for callback in trainer.callbacks]
    known = [each.last(_NOISE_SCALE) for each in histories if isinstance(each, History)]
    return [scale for each in known for scale in each.values() if 0 < scale < math.inf]


def beyond_critical(batch_size: float, base: float, critical: float, source: str) -> str:
    """Say that a scaling rule is used where it is known to break.

    Args:
        batch_size: Samples of one optimizer step.
        base: Samples of the step that the learning rate was chosen for.
        critical: The critical batch size.
        source: Where that comes from.
    """
    best = best_gain(batch_size, base, critical)
    return (
        f"The effective batch size {batch_size:g} is beyond the critical batch size {critical:.3g} "
        f"({source}), where scaling rules break: from {base:g} samples to {batch_size:g}, the best "
        f"learning rate of SGD is expected to grow {best:.3g} times, not {batch_size / base:.3g} "
        "times. Take a smaller batch or a smaller learning rate."
    )
