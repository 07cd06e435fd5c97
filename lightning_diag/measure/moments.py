"""Sums, squares and extremes of a tensor in few passes: what every measure is made of.

On a CPU a plain float32 reduction of millions of values loses three digits, and float64 costs
twenty times as much. Rows of 1,024 values, each reduced in float32 and then added in float64, are
as fast as the plain reduction and right to eight digits; so everything here works on such rows.
On other devices torch's own reductions are trees already, and nothing here waits for the device.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

_ROW = 1024
_SMALL = 4096


@dataclass(frozen=True)
class Moments:
    """Additive moments of a tensor, 0-dim float64 (float32 where the device has no float64)."""

    count: float
    """Number of elements."""
    total: Tensor
    """Sum of the elements."""
    squares: Tensor
    """Sum of their squares."""


def wide(device: torch.device) -> torch.dtype:
    """Return the widest floating type of `device`: columns are added up in it."""
    return torch.float32 if device.type == "mps" else torch.float64


def plain(x: Tensor) -> Tensor:
    """Return `x` detached, real, dense and in at least float32.

    A complex tensor becomes its real and imaginary parts, a sparse one its coalesced values.

    Shape:
        ``(*)`` -> ``(*)``, or ``(*, 2)`` for complex input.
    """
    x = x.detach()
    if x.layout is not torch.strided:
        x = x.coalesce().values() if x.layout is torch.sparse_coo else x.values()
    if x.is_complex():
        x = torch.view_as_real(x.resolve_conj())
    wide_enough = x.dtype in (torch.float32, torch.float64)
    return x if wide_enough else x.float()


def flat(x: Tensor) -> Tensor:
    """Return the elements of `x` in one dimension, in any order, without a copy where it can."""
    if not x.is_contiguous() and x.dim() in (4, 5):
        last = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        if x.is_contiguous(memory_format=last):
            x = x.movedim(1, -1)
    return x.reshape(-1)


def square_sum(x: Tensor) -> Tensor:
    """Return the sum of squares of `x`, right to about eight digits.

    Shape:
        ``(*)`` -> ``()``, in the widest type of the device.

    Example:
        >>> square_sum(torch.tensor([3.0, 4.0]))
        tensor(25., dtype=torch.float64)
    """
    dtype = wide(x.device)
    if x.dtype is torch.float64:
        return x.square().sum()
    if x.device.type != "cpu" or x.numel() <= _SMALL:
        norm: Tensor = torch.linalg.vector_norm(x)
        return norm.to(dtype).square()
    x = flat(x)
    whole = x.numel() // _ROW * _ROW
    rows: Tensor = torch.linalg.vector_norm(x[:whole].view(-1, _ROW), dim=1).to(dtype)
    tail: Tensor = torch.linalg.vector_norm(x[whole:]).to(dtype)
    return torch.dot(rows, rows) + tail * tail


def moments(x: Tensor) -> Moments:
    """Return count, sum and sum of squares of `x`, without cancellation between the last two.

    The squares are taken about the mean and moved back in float64, so that a variance may be
    computed from pooled moments even where the mean is a million times the standard deviation.

    Shape:
        ``(*)`` -> scalars.
    """
    x = plain(x)
    count = x.numel()
    dtype = wide(x.device)
    if count == 0:
        zero = torch.zeros((), dtype=dtype, device=x.device)
        return Moments(0.0, zero, zero)
    if x.device.type == "cpu":
        total = x.sum().to(dtype)
        about_mean = square_sum(x - (total / count).to(x.dtype))
        shift = (total / count).to(x.dtype).to(dtype)
        return Moments(float(count), total, about_mean + shift * (2 * total - count * shift))
    variance, mean = torch.var_mean(x, correction=0)
    mean = mean.to(dtype)
    return Moments(float(count), mean * count, (variance.to(dtype) + mean * mean) * count)


def extremes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest value of `x` and the negative of its smallest; NaN counts as infinity.

    Both join by max. Of an empty tensor both are 0.

    Shape:
        ``(*)`` -> ``()``, ``()``.

    Example:
        >>> extremes(torch.tensor([-3.0, 2.0]))
        (tensor(2.), tensor(3.))
    """
    if x.numel() == 0:
        return x.new_zeros(()), x.new_zeros(())
    low, high = torch.aminmax(x)
    # with NaN in the data both are NaN, which a maximum over ranks would treat as it likes
    return high.nan_to_num(nan=math.inf, posinf=math.inf), (-low).nan_to_num(
        nan=math.inf, posinf=math.inf
    )


def largest(x: Tensor) -> Tensor:
    """Return the largest absolute value of `x`; NaN counts as infinity, an empty tensor as 0.

    Shape:
        ``(*)`` -> ``()``.
    """
    return torch.maximum(*extremes(x))


def nonzero_count(x: Tensor) -> Tensor:
    """Return the number of elements that are not exactly 0 (NaN is not).

    Shape:
        ``(*)`` -> ``()``, floating.
    """
    if x.device.type != "cpu":
        return torch.count_nonzero(x).to(wide(x.device))
    # ten times as fast on a CPU as count_nonzero, which adds up booleans as integers
    return torch.ne(x, 0, out=torch.empty_like(x)).sum()


def nonfinite_count(x: Tensor, total: Tensor) -> Tensor:
    """Return the number of NaN and infinite elements.

    Args:
        total: A sum over `x`, or of its squares: where that is finite, so is every element.

    Shape:
        ``(*)`` -> ``()``, floating.
    """
    if x.device.type == "cpu" and bool(torch.isfinite(total)):
        return torch.zeros((), dtype=torch.float64)
    return torch.count_nonzero(x - x).to(wide(x.device))


class MomentsCache:
    """Moments of the tensors of one forward pass, each computed once.

    The output of one layer is the input of the next: the same object, unless something changed it
    in place, which its version tells.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], int, Moments]] = {}

    def of(self, x: Tensor) -> Moments:
        """Return ``moments(x)``, from memory if `x` was seen and not changed since."""
        known = self._known.get(id(x))
        if known is not None and known[0]() is x and known[1] == x._version:
            return known[2]
        result = moments(x)
        self._known[id(x)] = (weakref.ref(x), x._version, result)
        return result

    def clear(self) -> None:
        """Forget everything."""
        self._known.clear()
