"""`GradientClipper`: base of the callbacks that clip gradients before an optimizer's step."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_diag._compat import Callback, LightningModule, MisconfigurationException, Trainer
from lightning_diag.warning import warn

_SHARDED = ("DeepSpeedStrategy", "FSDPStrategy", "ModelParallelStrategy", "XLAFSDPStrategy")
"""Strategies under which a rank holds a part of the gradients, or none that can be changed."""


class GradientClipper(Callback):
    """Clips in `on_before_optimizer_step`: gradients are accumulated, averaged and unscaled there.

    Where an optimizer unscales within its step (fused ones under a grad scaler), gradients still
    carry the loss scale, and the norm is divided by it.
    """

    clips_gradients: ClassVar[bool] = True
    """For whoever wants to know whether gradients change before the step."""

    @abstractmethod
    def clip(self, index: int, optimizer: Any, scale: Tensor | None) -> None:
        """Clip what optimizer `index` is about to step with.

        Args:
            index: Among the trainer's optimizers.
            optimizer: torch's own, with gradients.
            scale: The loss scale that gradients still carry, None if they do not.
        """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work, and warn of what may surprise."""
        if stage != "fit":
            return
        name = type(self).__name__
        classes = {cls.__name__ for cls in type(trainer.strategy).__mro__}
        sharded = next((one for one in _SHARDED if one in classes), None)
        if sharded is not None:
            raise MisconfigurationException(
                f"`{name}` needs whole gradients on every rank, and {sharded} spreads them: use "
                "`Trainer(gradient_clip_val=...)` instead."
            )
        if trainer.gradient_clip_val:
            warn(
                f"Gradients are clipped twice: by {name}, and then by gradient_clip_val="
                f"{trainer.gradient_clip_val}. Leave one of them out."
            )
        any_trainer: Any = trainer  # Lightning sets its callbacks where type checkers do not look
        callbacks = list(any_trainer.callbacks)
        behind = callbacks[callbacks.index(self) + 1 :] if self in callbacks else []
        watcher = next((type(one).__name__ for one in behind if hasattr(one, "observers")), None)
        if watcher is not None:
            warn(
                f"{watcher} stands behind {name} in `callbacks`, and takes clipped gradients for "
                f"unclipped ones: put {name} last."
            )

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Clip."""
        optimizer = getattr(optimizer, "optimizer", optimizer)
        known = [id(one) for one in trainer.optimizers]
        if id(optimizer) not in known:
            return
        with torch.no_grad():
            self.clip(known.index(id(optimizer)), optimizer, _carried_scale(trainer, optimizer))


def _carried_scale(trainer: Any, optimizer: Any) -> Tensor | None:
    """Return the loss scale that gradients still carry, without waiting for the device."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None or not scaler.is_enabled():
        return None
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        return None
    scale: Tensor | None = scaler._get_scale_async()
    return scale


def gradients_of(optimizer: Any) -> list[Tensor]:
    """Return the gradients that an optimizer will step with, tied parameters' once."""
    parameters = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    return [p.grad for p in parameters.values() if p.grad is not None]
