"""Asks, after each validation or epoch, whether a logged metric has stopped getting better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lightning_diag._compat import MisconfigurationException
from lightning_diag.stopping.weights import copied, put_back
from lightning_diag.transfer import ranks
from lightning_diag.transfer.plateau import Plateau


class MetricWatch:
    """Follows a metric through a `Plateau`, the same on all ranks.

    Args:
        metric: Its logged name; None watches nothing.
        plateau: Says when it has stopped getting better.
        restore_best: Whether to keep the best weights of a stage, to put back at its end.
    """

    def __init__(self, metric: str | None, plateau: Plateau, *, restore_best: bool) -> None:
        self.metric, self.restore_best = metric, restore_best
        self._plateau = plateau
        self.begin()

    def begin(self) -> None:
        """Forget all: a fit begins."""
        self.is_waiting = False
        """Whether there is a plateau that nothing has been made of yet."""
        self._best: dict[str, torch.Tensor] | None = None
        # Whether there was a validation, and whether it is validations that log the metric.
        self._has_validated = self._is_validated = False
        self._stale: torch.Tensor | None = None
        self._plateau.begin()

    def validation_started(self, trainer: Any) -> None:
        """Keep in mind what the metric was: it stays there until it is logged again."""
        if self.metric is not None:
            self._stale = trainer.callback_metrics.get(self.metric)

    def validation_ended(self, trainer: Any, *, has_more: bool) -> None:
        """Look at the metric, if this validation logged it.

        Args:
            trainer: Whose validation it was.
            has_more: Whether there is a stage to come.
        """
        if self.metric is None or trainer.sanity_checking:
            return
        found = trainer.callback_metrics.get(self.metric)
        new = None if found is self._stale else found
        self._stale, self._has_validated = None, True
        if ranks.any_has(trainer, mine=new is not None):
            self._is_validated = True
            self._check(trainer, new, has_more=has_more)

    def epoch_ended(self, trainer: Any, *, has_more: bool) -> None:
        """Do so, where validations do not log it."""
        if self.metric is None or self._is_validated:
            return
        if self._has_validated or not trainer.enable_validation:
            self._check(trainer, trainer.callback_metrics.get(self.metric), has_more=has_more)

    def _check(self, trainer: Any, logged: torch.Tensor | None, *, has_more: bool) -> None:
        value = ranks.joined(trainer, None if logged is None else float(logged))
        if value is None:
            raise MisconfigurationException(
                f"`on_plateau` is {self.metric!r}, which nobody has logged: it must be one of "
                f"{', '.join(sorted(trainer.callback_metrics)) or '(nothing is)'}."
            )
        if self.is_waiting or not has_more:
            return
        self.is_waiting = self._plateau.add(value)
        if self._plateau.is_best and self.restore_best:
            self._best = None  # never two copies at once
            self._best = copied(trainer.lightning_module)

    def end_stage(self, trainer: Any) -> None:
        """Put the best weights back if they were kept; the next stage begins."""
        if self._best is not None:
            put_back(trainer.lightning_module, self._best)
        self._best, self.is_waiting = None, False
        self._plateau.begin()

    def state_dict(self) -> dict[str, Any]:
        """Return plain values, and the best weights of the stage if they are to be restored."""
        return {
            "waiting": self.is_waiting,
            "validated": [self._has_validated, self._is_validated],
            "plateau": self._plateau.state_dict(),
            **({} if self._best is None else {"best": dict(self._best)}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.is_waiting = state["waiting"]
        self._has_validated, self._is_validated = state["validated"]
        self._plateau.load_state_dict(state["plateau"])
        self._best = state.get("best") if self.restore_best else None
