"""`LRCallback`: what all callbacks that adjust learning rates share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch

from lightning_diag._compat import Callback, LightningModule, StepOutput, Trainer, namespace_of
from lightning_diag._compat import MisconfigurationException as Misconfiguration
from lightning_diag.lr.apply import Adjustment, AppliedLR, effective
from lightning_diag.lr.select import selected

_HOOKS = ("on_train_batch_start", "on_train_epoch_start")
"""Those in which `LearningRateMonitor` reads parameter groups."""


class LRCallback(Callback):
    """Base of the callbacks that multiply learning rates.

    Args:
        parameters: Which parameter groups; see `selected`.
        identity: What tells this callback from others of its class in a checkpoint.
    """

    def __init__(
        self,
        parameters: str | list[str] | None = None,
        *,
        identity: Mapping[str, object] | None = None,
    ) -> None:
        chosen = {} if parameters is None else {"parameters": parameters}
        super().__init__(**chosen, **(identity or {}))
        self.parameters = parameters
        self._steps: list[int] = []
        self._adjustments: dict[int, tuple[AppliedLR, Adjustment]] = {}
        self._monitors: list[Any] = []

    def adjustment(
        self, trainer: Any, module: Any, index: int, groups: list[int]
    ) -> Adjustment | None:
        """Say what to do to an optimizer; called once, when training begins.

        Args:
            index: Which of the trainer's optimizers.
            groups: Its parameter groups that the user chose.
        """
        raise NotImplementedError

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew: a fit has new optimizers; what a checkpoint holds is loaded after this."""
        if stage == "fit":
            self._leave()
            self._steps = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join the optimizers, which stand and are restored by now."""
        self._leave()
        chosen = selected(trainer, pl_module, self.parameters)
        for i, optimizer in enumerate(trainer.optimizers):
            adjustment = self.adjustment(trainer, pl_module, i, chosen[i]) if chosen[i] else None
            if adjustment is not None:
                adjustment.is_live = self._liveness(trainer)
                adjustment.steps = self._steps[i] if i < len(self._steps) else 0
                self._adjustments[i] = (_joined(optimizer, adjustment), adjustment)
        callbacks: list[Any] = getattr(trainer, "callbacks", [])
        self._monitors = [each for each in callbacks if _is_lr_monitor(each)]
        for monitor in self._monitors:
            _Shown.on(monitor)

    def _liveness(self, trainer: Any) -> Callable[[], bool]:
        # The searches of Lightning's Tuner train with the same optimizers, without the callbacks.
        return lambda: any(callback is self for callback in trainer.callbacks)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Let the user's code see the learning rate of the coming step, as far as that is safe."""
        # Elsewhere a scheduler may be stepped before the optimizer is, and must see its own rate.
        if pl_module.automatic_optimization and not _overrides_step(pl_module):
            for applied, _ in self._adjustments.values():
                applied.show()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        """End that."""
        self._hide()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """End that, also where there was nothing to go backward from."""
        self._hide()

    def _hide(self) -> None:
        for applied, _ in self._adjustments.values():
            applied.hide_unless_stepping()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: StepOutput,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """End that, also where no step was taken."""
        for applied, _ in self._adjustments.values():
            applied.hide()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of the optimizers."""
        self._leave()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Let go of the optimizers at once: whoever saves now must see the user's own rates."""
        self._leave()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the optimizers."""
        if stage == "fit":
            self._leave()

    def _leave(self) -> None:
        self._steps = self.steps
        for applied, adjustment in self._adjustments.values():
            applied.leave(adjustment)
        self._adjustments = {}
        for monitor in self._monitors:
            _Shown.off(monitor)
        self._monitors = []

    @property
    def steps(self) -> list[int]:
        """Optimizer steps done, by optimizer; those that a grad scaler skipped are not counted."""
        if not self._adjustments:
            return list(self._steps)
        size = max(*self._adjustments, len(self._steps) - 1) + 1
        known = [*self._steps, *[0] * (size - len(self._steps))]
        return [
            self._adjustments[i][1].steps if i in self._adjustments else known[i]
            for i in range(size)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the steps done, loadable under ``weights_only=True``."""
        return {"steps": self.steps}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from the steps that were done; also within a fit, as Lightning's Tuner does."""
        self._steps = [int(steps) for steps in state_dict.get("steps", ())]
        for i, (_, adjustment) in self._adjustments.items():
            adjustment.steps = self._steps[i] if i < len(self._steps) else 0

    def __getstate__(self) -> dict[str, Any]:
        """Leave the optimizers behind: a copy adjusts nothing yet."""
        return {**self.__dict__, "_steps": self.steps, "_adjustments": {}, "_monitors": []}


class _Shown:
    """Stands before a hook of a `LearningRateMonitor`: it reads what steps are taken with (P41)."""

    def __init__(self, monitor: Any, name: str) -> None:
        self.hook: Callable[..., Any] = getattr(monitor, name)
        self.was_its_own = name in vars(monitor)
        self.users = 0

    def __call__(self, trainer: Any, *rest: Any, **options: Any) -> Any:
        with effective(trainer.optimizers):
            return self.hook(trainer, *rest, **options)

    @classmethod
    def on(cls, monitor: Any) -> None:
        """Stand there, once for all callbacks of ours."""
        for name in _HOOKS:
            shown = getattr(monitor, name)
            if not isinstance(shown, cls):
                shown = cls(monitor, name)
                setattr(monitor, name, shown)
            shown.users += 1

    @classmethod
    def off(cls, monitor: Any) -> None:
        """Go away when the last callback of ours does."""
        for name in _HOOKS:
            shown = monitor.__dict__.get(name)
            if isinstance(shown, cls):
                shown.users -= 1
                if shown.users < 1:
                    delattr(monitor, name)
                    if shown.was_its_own:
                        setattr(monitor, name, shown.hook)


def say(trainer: Any, message: str) -> None:
    """Print a line through the trainer's own logger, which users know how to silence."""
    if trainer.is_global_zero:
        logging.getLogger(namespace_of(trainer)).info(message)


def _joined(optimizer: torch.optim.Optimizer, adjustment: Adjustment) -> AppliedLR:
    try:
        return AppliedLR.join(optimizer, adjustment)
    except TypeError as error:
        raise Misconfiguration(str(error)) from error


def _is_lr_monitor(callback: object) -> bool:
    return any(cls.__name__ == "LearningRateMonitor" for cls in type(callback).__mro__)


def _overrides_step(module: Any) -> bool:
    """Whether the user's own `optimizer_step` decides what is run and when."""
    home = getattr(type(module).optimizer_step, "__module__", "") or ""
    return not home.startswith(("pytorch_lightning.", "lightning.pytorch."))
