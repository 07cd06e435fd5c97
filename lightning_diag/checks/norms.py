"""What batch norms are given in a training step of a copy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_diag.checks.subject import Subject
from lightning_diag.checks.twin import Twin
from lightning_diag.probe.places import named_modules


@dataclass(frozen=True)
class NormCall:
    """One call of a batch norm."""

    path: str
    norm: _BatchNorm
    """The copy's."""
    values: int
    """Values of one sample in each channel: 1 behind a linear layer, pixels of a picture."""
    means: Tensor
    """Of each sample and channel, ``(samples, channels)``."""
    variances: Tensor
    """Within each sample, as many; 0 where it has one value."""

    @property
    def samples(self) -> int:
        """Samples of the call."""
        return len(self.means)


def batch_norms(module: nn.Module) -> dict[str, _BatchNorm]:
    """Return the batch norms of a module by path."""
    return {path: m for path, m in named_modules(module) if isinstance(m, _BatchNorm)}


def takes_statistics(norm: _BatchNorm) -> bool:
    """Return whether a norm divides by the statistics of the batch."""
    return norm.training or norm.running_mean is None


def norm_calls(twin: Twin, subject: Subject, index: int = 0) -> list[NormCall]:
    """Return what the batch norms of a copy are given in a training step.

    Raises:
        Unavailable: If none of them was called before the step failed.
    """
    calls: list[NormCall] = []
    with ExitStack() as hooks:
        for path, norm in batch_norms(twin.module).items():

            def enters(module: Any, inputs: tuple[Any, ...], path: str = path) -> None:
                calls.append(norm_call(path, module, inputs[0]))

            hooks.callback(norm.register_forward_pre_hook(enters).remove)
        try:
            twin.step(twin.moved(subject.batch(index)), index)
        except Exception:
            if not calls:
                raise
    return calls


def norm_call(path: str, norm: _BatchNorm, x: Tensor) -> NormCall:
    """Return what is known of a call.

    Shape:
        ``(batch, channels, *)``.

    Example:
        >>> call = norm_call("bn", nn.BatchNorm1d(1), torch.tensor([[[1.0, 3.0]], [[5.0, 5.0]]]))
        >>> call.means.tolist(), call.variances.tolist(), call.values
        ([[2.0], [5.0]], [[1.0], [0.0]], 2)
    """
    rows = x.detach().float().reshape(x.shape[0], x.shape[1], -1) if x.dim() > 1 else x[None, None]
    means = rows.mean(2)
    return NormCall(path, norm, rows.shape[2], means, rows.var(2, correction=0))


def scatter_of_means(means: Tensor, variances: Tensor, samples: int) -> float:
    """Return how far means of batches lie from each other, in deviations of single values.

    It is 1 / sqrt(samples) where a sample has one value, and less the more alike the means of
    samples are, of all that varies.

    Args:
        means: Of some samples, ``(n, channels)``; at least two.
        variances: Within them, as many.
        samples: Of a batch.

    Example:
        >>> scatter_of_means(torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1), 4)
        0.5
        >>> scatter_of_means(torch.tensor([[-1.0], [1.0]]), 6 * torch.ones(2, 1), 4)
        0.25
    """
    if len(means) < 2:
        return math.nan
    between = means.var(0, correction=1)
    total = between + variances.mean(0)
    varies = total > 1e-12
    if not bool(varies.any()):
        return math.nan
    return float((between / total)[varies].mean().div(samples).sqrt())


def statistics_off(call: NormCall) -> float | None:
    """Return how far a call's values are from the running statistics; 1 is not at all.

    The mean over channels, as a geometric one, of the mean square distance from the running mean,
    in running variances; the inverse where that is below 1. None if nothing is known of them.

    Example:
        >>> norm = nn.BatchNorm1d(1, eps=0.0)
        >>> round(statistics_off(norm_call("bn", norm, torch.tensor([[-3.0], [3.0]]))), 3)
        9.0
    """
    norm = call.norm
    if norm.running_mean is None or norm.running_var is None:
        return None
    mean, variance = norm.running_mean.float(), norm.running_var.float() + norm.eps
    square = ((call.means - mean).square() + call.variances).mean(0) / variance
    if not bool(torch.isfinite(square).all()):
        return None
    level = math.exp(float(square.clamp(min=1e-12).log().mean()))
    return max(level, 1 / level)


def is_fresh(norm: _BatchNorm) -> bool:
    """Return whether a norm's running statistics are those it was made with.

    Example:
        >>> is_fresh(nn.BatchNorm1d(2))
        True
    """
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        return True
    return bool((mean == 0).all()) and bool((variance == 1).all())


def without_noise(twin: Twin) -> Iterator[nn.Module]:
    """Let norms use their running statistics, and dropout nothing; yield what was switched."""
    for module in twin.module.modules():
        if isinstance(module, _BatchNorm) or "Dropout" in type(module).__name__:
            yield module.eval()
