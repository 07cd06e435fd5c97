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
    for callback in trainer.callbacks:
        history = getattr(callback, "history", None)
        if isinstance(history, History):
            values = [x for x in history.last(_NOISE_SCALE).values() if 0 < x < math.inf]
            if values:
                return max(values)
    return None


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
