"""`GradientClipAdvisor`: says which clipping threshold the norms of a fit suggest (R6)."""

from __future__ import annotations

import logging
from typing import Any

from lightning_diag._compat import (
    Callback,
    LightningModule,
    MisconfigurationException,
    Trainer,
    namespace_of,
)
from lightning_diag.clipping.advice import ClipAdvice, clip_advice
from lightning_diag.history import History


class GradientClipAdvisor(Callback):
    """Say at the end of a fit how many steps were clipped, and which threshold suits them (R6).

    It changes nothing, and reads what `Doctor` has observed: add that too.

    Args:
        percentile: Of the gradient norms, above 0 and below 100; see `clip_advice`.
        least: Norms below which it says ``insufficient data``, at least 2.

    Raises:
        ValueError: If an argument is out of range.
        MisconfigurationException: When a fit begins without `Doctor`.

    Example:
        >>> GradientClipAdvisor(percentile=95).advice
        {}
    """

    def __init__(self, percentile: float = 90.0, *, least: int = 20) -> None:
        super().__init__(percentile=percentile, least=least)
        clip_advice(History(), percentile=percentile, least=least)
        self.percentile = percentile
        self.least = least
        self.advice: dict[str, ClipAdvice] = {}
        """Of the last fit, by the optimizer's place: empty if it is the only one."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make sure that there is something to read."""
        if stage == "fit" and _observed(trainer) is None:
            raise MisconfigurationException(
                "`GradientClipAdvisor` needs the gradient norms that `Doctor` observes, and the "
                "trainer has none: add `Doctor()` to its callbacks."
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the run, and say so on the first rank."""
        history = _observed(trainer)
        if history is None:
            return
        self.advice = clip_advice(history, percentile=self.percentile, least=self.least)
        if trainer.is_global_zero:
            for place, advice in self.advice.items():
                of = f" {place}" if place else ""
                logger = logging.getLogger(namespace_of(trainer))
                logger.info("GradientClipAdvisor%s: %s", of, advice.reason)


def _observed(trainer: Any) -> History | None:
    """Return the history that one of the trainer's callbacks keeps."""
    kept = (getattr(callback, "history", None) for callback in trainer.callbacks)
    return next((one for one in kept if isinstance(one, History)), None)
