"""What warm-up and batch size multiply the learning rate by, as pure functions of the step.

`t` counts the optimizer steps that are done: the first step is taken at ``t = 0``. Nothing is
remembered between calls, so a factor after a resume is the one it would have been.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from lightning_diag.lr import checks

WarmupShape: TypeAlias = Literal["linear", "cosine", "exponential", "constant"]
"""How a warm-up goes from its start to 1."""
ScalingRule: TypeAlias = Literal["linear", "sqrt", "auto"]
"""How the learning rate follows the batch size; ``auto`` goes by the optimizer."""

WARMUP_SHAPES: tuple[WarmupShape, ...] = ("linear", "cosine", "exponential", "constant")
SCALING_RULES: tuple[ScalingRule, ...] = ("linear", "sqrt", "auto")
_SETTLED = 0.01
"""Our choice: share of its initial value that is left in a running statistic that has settled."""


def warmup_factor(
    t: int, *, steps: int, start_factor: float = 0.0, shape: WarmupShape = "linear", hold: int = 0
) -> float:
    """Return what a warm-up multiplies the learning rate by.

    With ``p = min(1, max(0, t - hold) / steps)``: ``linear`` is ``start + (1 - start) * p``,
    ``cosine`` puts ``(1 - cos(pi * p)) / 2`` in place of p, ``exponential`` is
    ``start ** (1 - p)``, and ``constant`` is the start until p is 1.

    Args:
        t: Optimizer steps done.
        steps: Steps from the start to 1, at least 0.
        start_factor: Factor at ``t = 0``, from 0 to 1; above 0 for ``exponential``.
        shape: How it grows.
        hold: Steps that the start is held for, before all else.

    Example:
        >>> [warmup_factor(t, steps=4, start_factor=0.5) for t in (0, 2, 4, 5)]
        [0.5, 0.75, 1.0, 1.0]
    """
    done = t - hold
    if done >= steps:
        return 1.0
    p = max(0, done) / steps
    if shape == "constant" or p == 0:
        return start_factor
    if shape == "exponential":
        return float(start_factor ** (1 - p))
    if shape == "cosine":
        p = (1 - math.cos(math.pi * p)) / 2
    return start_factor + (1 - start_factor) * p


def warmup_momentum(t: int, *, steps: int, start: float, end: float, hold: int = 0) -> float:
    """Return the momentum of a warm-up, which goes from `start` to `end` in a straight line.

    Args:
        t: Optimizer steps done.
        steps: Steps from start to end, at least 0.
        start: Momentum at ``t = 0``, from 0 to below 1.
        end: The parameter group's own momentum.
        hold: Steps that the start is held for, before all else.

    Example:
        >>> [round(warmup_momentum(t, steps=4, start=0.8, end=0.9), 3) for t in (0, 2, 4)]
        [0.8, 0.85, 0.9]
    """
    done = t - hold
    return end if done >= steps else start + (end - start) * max(0, done) / steps


def untuned_steps(beta2: float) -> int:
    """Return the steps of the untuned linear warm-up for Adam, ``2 / (1 - beta2)``.

    Adam's estimate of the second moment is noisy until it has seen about ``1 / (1 - beta2)``
    gradients.

    Args:
        beta2: Decay rate of the second moment, from 0 to below 1.

    Example:
        >>> untuned_steps(0.999), untuned_steps(0.95)
        (2000, 40)

    References:
        Ma and Yarats, On the Adequacy of Untuned Warmup for Adaptive Optimization, 2019,
        arXiv:1910.04209.
    """
    # 1 - 0.95 is 0.050000000000000044
    return math.ceil(round(2 / (1 - beta2), 6))


def settling_passes(momentum: float) -> int:
    """Return the forward passes after which a running statistic has settled.

    A running statistic keeps ``1 - momentum`` of itself in a pass, so ``(1 - momentum) ** n`` of
    its initial value is left after n; here 1 % (our choice).

    Args:
        momentum: As batch norm has it, above 0; 0.1 is torch's default.

    Example:
        >>> settling_passes(0.1)
        44
    """
    if momentum >= 1:
        return 1
    return math.ceil(math.log(_SETTLED) / math.log1p(-momentum))


def scaling_factor(batch_size: float, base_batch_size: float, rule: ScalingRule) -> float:
    """Return what a batch size multiplies the learning rate by.

    Args:
        batch_size: Samples of one optimizer step, above 0.
        base_batch_size: Samples of the step that the learning rate was chosen for, above 0.
        rule: ``linear`` (for SGD) or ``sqrt`` (for adaptive optimizers).

    Example:
        >>> scaling_factor(1024, 256, "linear"), scaling_factor(1024, 256, "sqrt")
        (4.0, 2.0)

    References:
        Goyal et al., Accurate, Large Minibatch SGD, 2017, arXiv:1706.02677 (linear). Krizhevsky,
        One weird trick for parallelizing convolutional neural networks, 2014, arXiv:1404.5997, and
        Malladi et al., On the SDEs and Scaling Rules for Adaptive Gradient Algorithms, 2022,
        arXiv:2205.10287 (square root).
    """
    checks.one_of("rule", rule, ("linear", "sqrt"))
    ratio = batch_size / base_batch_size
    return math.sqrt(ratio) if rule == "sqrt" else ratio


def ramp(t: int, *, since: int, steps: int, start: float, target: float) -> float:
    """Return a factor on its way up; on the way down there is nothing to be gradual about.

    Args:
        t: Optimizer steps done.
        since: Step at which the target came up.
        steps: Steps that the way takes, at least 0.
        start: Factor at step `since`.
        target: Factor from step ``since + steps`` on.

    Example:
        >>> [ramp(t, since=10, steps=4, start=1.0, target=8.0) for t in (10, 12, 14)]
        [1.0, 4.5, 8.0]
        >>> ramp(10, since=10, steps=4, start=8.0, target=2.0)
        2.0
    """
    if t - since >= steps or target <= start:
        return target
    return start + (target - start) * (max(0, t - since) / steps)


def best_gain(batch_size: float, base_batch_size: float, critical_batch_size: float) -> float:
    """Return how much the best learning rate of SGD really grows from one batch size to another.

    That is ``(1 + C / base) / (1 + C / batch)`` with the critical batch size C: the ratio of the
    batch sizes where both are far below C, and 1 where both are far above.

    Args:
        batch_size: Samples of one optimizer step, above 0.
        base_batch_size: Samples of the step to compare with, above 0.
        critical_batch_size: The gradient noise scale, in samples, above 0.

    Example:
        >>> best_gain(1024, 256, 512)
        2.0

    References:
        McCandlish et al., An Empirical Model of Large-Batch Training, 2018, arXiv:1812.06162
        (equation 2.6).
    """
    return (1 + critical_batch_size / base_batch_size) / (1 + critical_batch_size / batch_size)
