"""The learning rate range test: a curve of losses, and what learning rates it suggests.

`read_curve` is a pure function of two lists; `lr_range_test` makes the curve with a copy of the
module, so that nothing of it is left on the module, its trainer, its data or the disk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from lightning_diag.lr.range_run import measured_curve

LEAST_POINTS = 20
"""Losses that a curve must have. Our choice: fewer cannot show a fall and a rise."""
SHARE = 0.025
"""Width of the smoothing as a share of the curve (the deviation of a Gaussian). Our choice: 0.2 of
the 8 decades that are tested by default."""
CERTAIN = 5.0
"""Standard errors of the smoothed loss that a fall must exceed. Our choice: the lowest of some 20
independent levels is a fall of 2 by chance alone, and neighbours share their noise."""
LEAST_FALL = 0.02
"""Share of the first loss that a fall must exceed. Our choice: less is no training."""


@dataclass(frozen=True)
class Suggestion:
    """A learning rate that a curve speaks for."""

    name: str
    """``steepest``, ``valley`` or ``minimum/10``."""
    lr: float
    """The learning rate."""
    source: str
    """Where the method comes from."""


@dataclass(frozen=True)
class RangeTest:
    """The curve of a range test, and what it suggests."""

    lrs: tuple[float, ...]
    """Learning rates, rising."""
    losses: tuple[float, ...]
    """The loss after a step with each of them."""
    smoothed: tuple[float, ...]
    """The finite part of it, smoothed without lag."""
    suggestions: tuple[Suggestion, ...]
    """What the curve speaks for; empty where it shows no fall and rise."""
    reason: str
    """Why there is no suggestion; empty where there is."""

    @property
    def lr(self) -> float | None:
        """The suggestion named ``valley``, None without one.

        Our choice: of the three its worst training was the least bad, see
        docs/learning-rate/range-test.md.
        """
        return next((each.lr for each in self.suggestions if each.name == "valley"), None)


def read_curve(lrs: Sequence[float], losses: Sequence[float]) -> RangeTest:
    """Read suggestions from the losses of steps with rising learning rates.

    The losses are smoothed by a Gaussian that looks both ways: a running average, which Lightning's
    own finder takes, lags, and moves what is read from it to higher learning rates. All slopes are
    those over the logarithm of the learning rate.

    - ``steepest``: where the loss falls fastest.
    - ``valley``: the geometric middle of the fall, between a tenth and nine tenths of it.
    - ``minimum/10``: a tenth of the learning rate with the lowest loss.

    Args:
        lrs: Above 0, rising by a constant factor.
        losses: One for each; what follows the first that is not finite is not looked at.

    Raises:
        ValueError: If the lengths differ or the learning rates do not rise.

    Example:
        >>> lrs = [10 ** (-5 + i / 10) for i in range(60)]
        >>> read_curve(lrs, [2.0 for _ in lrs]).reason  # doctest: +ELLIPSIS
        'the loss never clearly fell: it began at 2, ...'

    References:
        Smith, Cyclical learning rates for training neural networks, 2017, arXiv:1506.01186.
        Howard and Gugger, fastai: a layered API for deep learning, 2020, arXiv:2002.04688.
    """
    if len(lrs) != len(losses):
        raise ValueError(f"`losses` must be as many as `lrs`, got {len(losses)} and {len(lrs)}.")
    if any(not 0 < a < b for a, b in pairwise(lrs)):
        raise ValueError("`lrs` must be above 0 and rise from each to the next.")
    end = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), len(losses))
    bounded = _bounded(losses[:end])
    smoothed = _smoothed(bounded, max(1.0, SHARE * len(lrs)))
    reason = _why_not(bounded, smoothed, len(lrs))
    found = () if reason else _suggestions(lrs, bounded, smoothed)
    return RangeTest(tuple(lrs), tuple(losses), tuple(smoothed), found, reason)


def lr_range_test(
    model: Any,
    train_dataloaders: Any = None,
    *,
    datamodule: Any = None,
    trainer: Any = None,
    min_lr: float = 1e-7,
    max_lr: float = 10.0,
    steps: int = 100,
    stop_factor: float = 4.0,
    accelerator: str = "auto",
) -> RangeTest:
    """Train a copy of the module while the learning rate rises; read suggestions from the losses.

    The module, its trainer, its data's random generators, Python's, NumPy's and torch's random
    states, and the disk are as before, also after an error or Ctrl+C. The copy is trained on one
    device, without the user's callbacks, loggers, checkpoints, schedulers and validation.

    Args:
        model: A LightningModule of either namespace, with automatic or manual optimisation. Of
            several parameter groups the first gets the tested learning rate, the others keep
            their ratio to it.
        train_dataloaders: As for `Trainer.fit`. What can be iterated only once is used up.
        datamodule: Instead of them.
        trainer: Whose precision, gradient clipping and accumulation hold here, too; it is only
            read. None: Lightning's defaults.
        min_lr: First learning rate, above 0.
        max_lr: Last one.
        steps: Optimizer steps from the one to the other, at least 20.
        stop_factor: The test ends early when the smoothed loss is above its first value and so
            many times its lowest, above 1.
        accelerator: As for the Trainer.

    Raises:
        TypeError: If `model` is no LightningModule.
        ValueError: If a number is out of range, or training returns no loss.

    Cost:
        `steps` + 1 optimizer steps, and a copy of the module and its optimizer's state.
    """
    if not 0 < min_lr < max_lr < math.inf:
        raise ValueError(f"`min_lr` must be above 0 and below `max_lr`, got {min_lr} and {max_lr}.")
    if steps < LEAST_POINTS:
        raise ValueError(f"`steps` must be at least {LEAST_POINTS}, got {steps}.")
    if not stop_factor > 1:
        raise ValueError(f"`stop_factor` must be above 1, got {stop_factor}.")
    rates = [min_lr * (max_lr / min_lr) ** (i / (steps - 1)) for i in range(steps)]
    losses = measured_curve(
        model,
        train_dataloaders,
        datamodule,
        trainer,
        rates,
        stop_factor=stop_factor,
        accelerator=accelerator,
    )
    return read_curve(rates[: len(losses)], losses)


def _bounded(losses: Sequence[float]) -> list[float]:
    """Cut losses off where they have left: smoothing must not carry them back to where they fell.

    The limit is as far above the first level as the lowest loss is below it.
    """
    if not losses:
        return []
    start = _start(losses)
    limit = start + max(start - min(losses), 0.0)
    return [min(loss, limit) for loss in losses]


def _start(losses: Sequence[float]) -> float:
    """Return the level at the lowest learning rates, which train next to nothing."""
    return median(losses[: _first(losses)])


def _first(losses: Sequence[float]) -> int:
    return max(5, len(losses) // 10)


def _smoothed(losses: Sequence[float], width: float) -> list[float]:
    kernel = _kernel(width)
    reach = len(kernel) // 2
    smooth = []
    for i in range(len(losses)):
        pairs = [
            (kernel[j - i + reach], losses[j])
            for j in range(max(0, i - reach), min(len(losses), i + reach + 1))
        ]
        smooth.append(sum(w * x for w, x in pairs) / sum(w for w, _ in pairs))
    return smooth


def _kernel(width: float) -> list[float]:
    reach = math.ceil(3 * width)
    return [math.exp(-0.5 * (j / width) ** 2) for j in range(-reach, reach + 1)]


def _error(losses: Sequence[float], smoothed: Sequence[float], width: float) -> float:
    """Return the standard error of a fall: of its smoothed end and of the level it began at."""
    part = max(smoothed.index(min(smoothed)) + 1, len(losses) // 2)
    rest = [x - y for x, y in zip(losses[:part], smoothed, strict=False)]
    kernel = _kernel(width)
    end = math.sqrt(sum(w * w for w in kernel)) / sum(kernel)
    first = 1.25 / math.sqrt(_first(losses))  # of a median: sqrt(pi / 2) times that of a mean
    return math.sqrt(fmean([r * r for r in rest])) * math.hypot(end, first)


def _why_not(losses: Sequence[float], smoothed: Sequence[float], tested: int) -> str:
    """Say why a curve suggests nothing; nothing if it does."""
    if len(losses) < LEAST_POINTS:
        return f"{len(losses)} finite losses are too few, {LEAST_POINTS} are needed"
    start, low = _start(losses), min(smoothed)
    error = _error(losses, smoothed, max(1.0, SHARE * tested))
    is_fall = start - low > max(CERTAIN * error, LEAST_FALL * abs(start))
    if not is_fall or smoothed.index(low) == 0:
        return (
            f"the loss never clearly fell: it began at {start:.4g}, its lowest, smoothed, was "
            f"{low:.4g}, and its noise has a standard error of {error:.2g}"
        )
    if smoothed.index(low) >= len(smoothed) - 1:
        return "the loss still fell at the highest learning rate: raise `max_lr`"
    return ""


def _suggestions(
    lrs: Sequence[float], losses: Sequence[float], smoothed: Sequence[float]
) -> tuple[Suggestion, ...]:
    low = smoothed.index(min(smoothed))
    start = _start(losses)
    fall = start - smoothed[low]
    first = next(i for i in range(low, -1, -1) if i == 0 or smoothed[i] >= start - 0.1 * fall)
    last = next(i for i in range(first, low + 1) if smoothed[i] <= start - 0.9 * fall)
    steepest = min(range(1, low + 1), key=lambda i: _slope(lrs, smoothed, i))
    return (
        Suggestion("steepest", lrs[steepest], "Smith 2017; Lightning's lr_find; fastai's steep"),
        Suggestion("valley", math.sqrt(lrs[first] * lrs[last]), "after fastai's valley"),
        Suggestion("minimum/10", lrs[low] / 10, "Howard and Gugger 2020; fastai's minimum"),
    )


def _slope(lrs: Sequence[float], smoothed: Sequence[float], i: int) -> float:
    before, after = max(i - 1, 0), min(i + 1, len(smoothed) - 1)
    return (smoothed[after] - smoothed[before]) / math.log(lrs[after] / lrs[before])
