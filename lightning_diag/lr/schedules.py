"""Schedules that torch lacks, as its own `LRScheduler` classes, with or without Lightning.

The learning rate of a group is its initial one times a pure function of the steps done: nothing is
computed from the learning rate before. So rounding does not add up, a resumed run goes on exactly
where it stopped, and a group that joins later follows as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_diag.lr import curves


class ClosedFormLR(LRScheduler):
    """Set the learning rate of each group to its initial one times a function of the steps done.

    As with torch's schedulers, a group's initial lr is its ``initial_lr`` if it has one. Otherwise
    it is its lr when the scheduler is made or, for a group that joins later, when it is first seen.

    The arguments are no part of the state: a run that is resumed follows those that it is given
    now, so that a training can be made longer.

    Args:
        optimizer: Whose groups are scheduled. An lr that is a tensor stays one.
        curve: Steps done to factor, as those of `lightning_diag.lr.curves`.
        last_epoch: Steps done before, less one.
    """

    def __init__(
        self, optimizer: Optimizer, curve: Callable[[int], float], last_epoch: int = -1
    ) -> None:
        curve(0)  # Wrong arguments are refused before the optimizer is touched.
        self.curve = curve
        if last_epoch == -1 and isinstance(optimizer, Optimizer):
            for group in optimizer.param_groups:
                _initial_lr(group)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each group after the steps done."""
        for group in self.optimizer.param_groups[len(self.base_lrs) :]:
            self.base_lrs.append(_initial_lr(group))
        factor = self.curve(self.last_epoch)
        return [base * factor for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Return how far the schedule is, without its arguments."""
        state: dict[str, Any] = super().state_dict()
        return {key: value for key, value in state.items() if key != "curve"}


def _initial_lr(group: dict[str, Any]) -> float | Tensor:
    """Return a copy of a group's initial lr, which is its lr if none is noted yet.

    Until torch 2.5 a scheduler noted the tensor itself, and then wrote to it.
    """
    lr: float | Tensor = group.get("initial_lr", group["lr"])
    group.setdefault("initial_lr", lr.clone() if isinstance(lr, Tensor) else lr)
    return lr.clone() if isinstance(lr, Tensor) else lr


class PowerLR(ClosedFormLR):
    """Let the learning rate fall as a power: ``initial_lr * (1 + t / timescale) ** -exponent``.

    It falls fast at first and ever slower, and needs no length of the training.

    Args:
        optimizer: Whose groups are scheduled.
        timescale: Scheduler steps after which the lr is its initial value over ``2 ** exponent``,
            above 0.
        exponent: How fast it falls later on, above 0.
        last_epoch: Steps done before, less one.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from torch import nn, optim
        >>> optimizer = optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1)
        >>> scheduler = PowerLR(optimizer, timescale=100)
        >>> for _ in range(100):
        ...     optimizer.step()
        ...     scheduler.step()
        >>> scheduler.get_last_lr()
        [0.05]

    References:
        Senior et al., An Empirical Study of Learning Rates in Deep Neural Networks for Speech
        Recognition, ICASSP 2013.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        timescale: float,
        *,
        exponent: float = 1.0,
        last_epoch: int = -1,
    ) -> None:
        curve = partial(curves.power, timescale=timescale, exponent=exponent)
        super().__init__(optimizer, curve, last_epoch)


class ExponentialDecayLR(ClosedFormLR):
    """Let the learning rate fall to a tenth again and again: ``10 ** (-t / steps_per_decade)``.

    torch's ``ExponentialLR(optimizer, gamma=10 ** (-1 / steps_per_decade))`` is the same up to
    rounding. This one has the argument in steps, and computes each lr from the initial one.

    Args:
        optimizer: Whose groups are scheduled.
        steps_per_decade: Scheduler steps in which the lr falls to a tenth, above 0.
        last_epoch: Steps done before, less one.

    Raises:
        ValueError: If `steps_per_decade` is not above 0.

    References:
        Senior et al., An Empirical Study of Learning Rates in Deep Neural Networks for Speech
        Recognition, ICASSP 2013.
    """

    def __init__(
        self, optimizer: Optimizer, steps_per_decade: float, *, last_epoch: int = -1
    ) -> None:
        curve = partial(curves.exponential, steps_per_decade=steps_per_decade)
        super().__init__(optimizer, curve, last_epoch)


class PiecewiseConstantLR(ClosedFormLR):
    """Hold the learning rate, and change it at milestones given as shares of the training.

    torch's ``MultiStepLR`` takes milestones as steps, to be changed with the training's length.

    Args:
        optimizer: Whose groups are scheduled.
        total_steps: Scheduler steps of the training, at least 1.
        milestones: Shares of `total_steps`, 0 to 1, rising.
        factors: Of the initial lr, one for each milestone, at least 0.
        last_epoch: Steps done before, less one.

    Raises:
        ValueError: If an argument is outside its range, or there are more or fewer factors than
            milestones.

    References:
        He et al., Deep Residual Learning for Image Recognition, 2015, arXiv:1512.03385, whose
        residual nets on CIFAR-10 had the default's milestones.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        *,
        milestones: Sequence[float] = (0.5, 0.75),
        factors: Sequence[float] = (0.1, 0.01),
        last_epoch: int = -1,
    ) -> None:
        curve = partial(
            curves.piecewise_constant,
            total_steps=total_steps,
            milestones=tuple(milestones),
            factors=tuple(factors),
        )
        super().__init__(optimizer, curve, last_epoch)


class WarmRestartsLR(ClosedFormLR):
    """Let the learning rate fall as a cosine again and again, with a warm-up before each fall.

    torch's ``CosineAnnealingWarmRestarts`` is the same without warm-up and with equal peaks.

    Args:
        optimizer: Whose groups are scheduled.
        cycle_steps: Scheduler steps of the first cycle, its warm-up included, at least 1.
        cycle_growth: Length of a cycle over the one before, at least 1.
        peak_decay: Peak of a cycle over that of the one before, above 0 and up to 1.
        end_factor: Of the initial lr, where each cycle ends, 0 to 1; no peak is below it.
        warmup_steps: Scheduler steps that go up to the peak on a straight line, at least 0, and
            fewer than `cycle_steps`.
        start_factor: Of the initial lr, where a warm-up starts, 0 to 1.
        warmup: Which cycles have one.
        last_epoch: Steps done before, less one.

    Raises:
        ValueError: If an argument is outside its range.

    References:
        Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017,
        arXiv:1608.03983.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        cycle_steps: int,
        *,
        cycle_growth: int = 1,
        peak_decay: float = 1.0,
        end_factor: float = 0.0,
        warmup_steps: int = 0,
        start_factor: float = 0.0,
        warmup: Literal["every", "first"] = "every",
        last_epoch: int = -1,
    ) -> None:
        curve = partial(
            curves.warm_restarts,
            cycle_steps=cycle_steps,
            cycle_growth=cycle_growth,
            peak_decay=peak_decay,
            end_factor=end_factor,
            warmup_steps=warmup_steps,
            start_factor=start_factor,
            warmup=warmup,
        )
        super().__init__(optimizer, curve, last_epoch)


class WarmupStableDecayLR(ClosedFormLR):
    """Warm up, stay stable, decay at the end (WSD).

    A run that is stopped before its decay can be resumed with a larger `total_steps`.

    Args:
        optimizer: Whose groups are scheduled.
        total_steps: Scheduler steps of the training, at least 1.
        warmup_steps: Scheduler steps of the warm-up, at least 0.
        decay_fraction: Share of `total_steps` that the decay takes at the end, 0 to 1.
        shape: Of the decay.
        end_factor: Of the initial lr, where the decay ends, 0 to 1, above 0 for ``exponential``.
        start_factor: Of the initial lr, where the warm-up starts, 0 to 1.
        last_epoch: Steps done before, less one.

    Raises:
        ValueError: If an argument is outside its range, or warm-up and decay overlap.

    References:
        Hu et al., MiniCPM, 2024, arXiv:2404.06395. Hägele et al., Scaling Laws and Compute-Optimal
        Training Beyond Fixed Training Durations, 2024, arXiv:2405.18392.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        *,
        warmup_steps: int = 0,
        decay_fraction: float = 0.2,
        shape: Literal["linear", "cosine", "sqrt", "square", "exponential"] = "sqrt",
        end_factor: float = 0.0,
        start_factor: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        curve = partial(
            curves.wsd,
            total_steps=total_steps,
            warmup_steps=warmup_steps,
            decay_fraction=decay_fraction,
            shape=shape,
            end_factor=end_factor,
            start_factor=start_factor,
        )
        super().__init__(optimizer, curve, last_epoch)


class InverseSquareRootLR(ClosedFormLR):
    """Warm up, then let the learning rate fall with the square root of the steps.

    It needs no length of the training. Behind the warm-up the factor is
    ``sqrt(timescale / (timescale + t - warmup_steps))``.

    Args:
        optimizer: Whose groups are scheduled; their initial lr is the peak.
        warmup_steps: Scheduler steps of the warm-up, at least 0.
        timescale: So many steps behind the warm-up the factor is ``sqrt(1 / 2)``, above 0. None
            takes `warmup_steps`, as Vaswani et al. do.
        start_factor: Of the initial lr, where the warm-up starts, 0 to 1.
        last_epoch: Steps done before, less one.

    Raises:
        ValueError: If an argument is outside its range, or there is neither warm-up nor timescale.

    References:
        Vaswani et al., Attention Is All You Need, 2017, arXiv:1706.03762, equation 3. Zhai et al.,
        Scaling Vision Transformers, 2021, arXiv:2106.04560.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        *,
        timescale: float | None = None,
        start_factor: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        curve = partial(
            curves.inverse_sqrt,
            warmup_steps=warmup_steps,
            timescale=timescale,
            start_factor=start_factor,
        )
        super().__init__(optimizer, curve, last_epoch)
