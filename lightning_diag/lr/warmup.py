"""`WarmupLR`: starts with a small learning rate, whatever schedule the user has."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import nn

from lightning_diag._compat import MisconfigurationException
from lightning_diag.lr import checks
from lightning_diag.lr.apply import Adjustment
from lightning_diag.lr.callback import LRCallback, say
from lightning_diag.lr.factors import (
    WARMUP_SHAPES,
    WarmupShape,
    settling_passes,
    untuned_steps,
    warmup_factor,
    warmup_momentum,
)
from lightning_diag.lr.length import steps_of_epochs, steps_of_training
from lightning_diag.lr.optimizers import is_adam

_START = 0.01
"""Our choice, as in torchvision's training references."""


class WarmupLR(LRCallback):
    """Warm up the learning rate: small at first, then what the user's schedule says (L2, P14).

    The learning rate of a step is the user's own times ``factor(t)``, t being the steps that this
    optimizer has done, whatever the accumulation and the number of devices. The schedule, if there
    is one, runs on below and is not touched: parameter groups hold the user's own rate, but during
    the steps. `LearningRateMonitor` shows the rate that steps are taken with.

    Args:
        steps: Optimizer steps until the factor is 1, or ``"auto"`` for optimizers of the Adam
            family: ``2 / (1 - beta2)``. It is "auto" if nothing else is given.
        epochs: The same in epochs of training, above 0; need not be whole.
        fraction: The same as a share of the whole training, above 0 and at most 1.
        start_factor: Factor of the first step, from 0 to 1. None is 0.01 (our choice), and with
            "auto" ``1 / steps``.
        shape: ``linear``, ``cosine``, ``exponential`` or ``constant`` (the start until the end).
        parameters: Only these parameter groups: patterns of their names, of optimizers
            (``optimizer1``, ``AdamW``), or of the parameters in them (``backbone.*``).
        start_momentum: Momentum, or Adam's first beta, of the first step, from 0 to below 1; it
            goes to the group's own in a straight line. None leaves it alone.
        hold: Steps that the start is held for before the factor grows; ``"batch-norm"`` holds it
            until less than 1 % of the initial values is left in running statistics.

    Raises:
        ValueError: If an argument is out of range, or more than one length is given.
        MisconfigurationException: When training begins, if the length is not known and would have
            to be guessed, or `parameters` fits nothing.

    Example:
        >>> WarmupLR(500, shape="cosine").start_factor
        0.01

    References:
        Goyal et al., Accurate, Large Minibatch SGD, 2017, arXiv:1706.02677. Ma and Yarats, On the
        Adequacy of Untuned Warmup for Adaptive Optimization, 2019, arXiv:1910.04209 ("auto").
    """

    def __init__(
        self,
        steps: int | Literal["auto"] | None = None,
        *,
        epochs: float | None = None,
        fraction: float | None = None,
        start_factor: float | None = None,
        shape: WarmupShape = "linear",
        parameters: str | list[str] | None = None,
        start_momentum: float | None = None,
        hold: int | Literal["batch-norm"] = 0,
    ) -> None:
        super().__init__(parameters)
        _check_length(steps, epochs, fraction)
        _check_hold(hold)
        checks.one_of("shape", shape, WARMUP_SHAPES)
        if start_factor is not None:
            checks.share("start_factor", start_factor)
            if shape == "exponential" and start_factor == 0:
                raise ValueError(
                    "`start_factor` must be above 0 for shape='exponential', which would never "
                    "leave 0, got 0: take 0.01, say."
                )
        if start_momentum is not None and not 0 <= start_momentum < 1:
            message = f"`start_momentum` must be from 0 to below 1, got {start_momentum}."
            raise ValueError(message)
        self.is_auto = steps == "auto" or (steps is None and epochs is None and fraction is None)
        self.epochs, self.fraction = epochs, fraction
        self._given = None if self.is_auto else steps
        self._start_factor = start_factor
        self.shape: WarmupShape = shape
        self.start_momentum = start_momentum
        self.hold = hold

    @property
    def start_factor(self) -> float:
        """Factor of the first step, where it does not depend on the optimizer."""
        return _START if self._start_factor is None else self._start_factor

    def adjustment(
        self, trainer: Any, module: Any, index: int, groups: list[int]
    ) -> Adjustment | None:
        """See `LRCallback.adjustment`."""
        optimizer = trainer.optimizers[index]
        lengths = self._lengths(trainer, module, optimizer, groups)
        hold = self._held_steps(trainer, module)
        say(trainer, self._describe(index, optimizer, lengths, hold))

        def factor(t: int, group: int) -> float:
            steps = lengths.get(group)
            if steps is None:
                return 1.0
            start = self._start(steps)
            return warmup_factor(t, steps=steps, start_factor=start, shape=self.shape, hold=hold)

        def momentum(t: int, group: int, own: float) -> float:
            start, steps = self.start_momentum, lengths.get(group)
            if start is None or steps is None:
                return own
            return warmup_momentum(t, steps=steps, start=start, end=own, hold=hold)

        if self.start_momentum is not None:
            _check_momentum(optimizer, groups)
        return Adjustment(
            factor,
            None if self.start_momentum is None else momentum,
            until=hold + max(lengths.values()),
        )

    def _start(self, steps: int) -> float:
        if self.is_auto and self._start_factor is None:
            return 1 / max(1, steps)
        return self.start_factor

    def _lengths(
        self, trainer: Any, module: Any, optimizer: Any, groups: list[int]
    ) -> dict[int, int]:
        """Return the steps of each group that is warmed up."""
        if self.is_auto:
            return {group: _auto_steps(optimizer, group) for group in groups}
        if self.epochs is not None:
            steps = steps_of_epochs(trainer, module, self.epochs, "epochs")
        elif self.fraction is not None:
            whole = steps_of_training(trainer, module, "fraction")
            steps = max(1, round(self.fraction * whole))
        else:
            steps = int(self._given or 0)
        return dict.fromkeys(groups, steps)

    def _held_steps(self, trainer: Any, module: Any) -> int:
        if self.hold != "batch-norm":
            return int(self.hold)
        passes = max((settling_passes(momentum) for momentum in _momenta(module)), default=0)
        accumulation = trainer.accumulate_grad_batches if module.automatic_optimization else 1
        return math.ceil(passes / accumulation)

    def _describe(self, index: int, optimizer: Any, lengths: dict[int, int], hold: int) -> str:
        steps = max(lengths.values())
        held = f" after {hold} held steps" if hold else ""
        return (
            f"WarmupLR: {type(optimizer).__name__} (optimizer{index}): lr × "
            f"{self._start(steps):g} to lr × 1, {self.shape}, in {steps} optimizer steps{held}"
        )


def _check_length(steps: int | str | None, epochs: float | None, fraction: float | None) -> None:
    given = {"steps": steps, "epochs": epochs, "fraction": fraction}
    names = [f"`{name}`" for name, value in given.items() if value is not None]
    if len(names) > 1:
        message = f"A warm-up has one length, got {' and '.join(names)}: leave one of them out."
        raise ValueError(message)
    if isinstance(steps, str):
        if steps != "auto":
            message = f"`steps` must be a number of optimizer steps or 'auto', got {steps!r}."
            raise ValueError(message)
    elif steps is not None:
        checks.whole("steps", steps, 0)
    if epochs is not None:
        checks.positive("epochs", epochs)
    if fraction is not None and not 0 < fraction <= 1:
        raise ValueError(f"`fraction` must be above 0 and at most 1, got {fraction}.")


def _check_hold(hold: int | str) -> None:
    if not isinstance(hold, str):
        checks.whole("hold", hold, 0)
    elif hold != "batch-norm":
        message = f"`hold` must be a number of optimizer steps or 'batch-norm', got {hold!r}."
        raise ValueError(message)


def _check_momentum(optimizer: Any, groups: list[int]) -> None:
    for index in groups:
        group = optimizer.param_groups[index]
        own = group["betas"][0] if "betas" in group else group.get("momentum")
        if not isinstance(own, (int, float)):
            raise MisconfigurationException(
                f"`start_momentum` needs an optimizer with `momentum` or `betas` that are plain "
                f"numbers, which {type(optimizer).__name__} has not: leave it out, or choose "
                "others with `parameters`."
            )


def _auto_steps(optimizer: Any, group: int) -> int:
    betas = optimizer.param_groups[group].get("betas")
    if betas is None or not is_adam(optimizer):
        raise MisconfigurationException(
            f"WarmupLR('auto') goes by beta2 of an optimizer of the Adam family, which "
            f"{type(optimizer).__name__} is not: give `steps`, `epochs` or `fraction`."
        )
    return untuned_steps(float(betas[1]))


def _momenta(module: nn.Module) -> list[float]:
    """Return the momentum of every running statistic that training updates."""
    tracking = [each for each in module.modules() if getattr(each, "track_running_stats", False)]
    found: list[Any] = [getattr(each, "momentum", None) for each in tracking]
    return [float(momentum) for momentum in found if momentum]
