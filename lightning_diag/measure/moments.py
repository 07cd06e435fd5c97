"""Sums, squares and extremes of a tensor in few passes: what every measure is made of.

On a CPU a plain float32 reduction of millions of values loses three digits, and float64 costs
twenty times as much. Rows of 1,024 values, each reduced in float32 and then added in float64, are
as fast as the plain reduction and right to eight digits; so everything here works on such rows.
On other devices torch's own reductions are trees already, and nothing here waits for the device.

Scalars are Python floats on a CPU, where torch takes 3 to 6 us for every operation on one, and
0-dim tensors elsewhere.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

Scalar: TypeAlias = Tensor | float
"""A number: a float if it is on the host, a 0-dim tensor if it is on another device."""

_ROW = 1024
_SMALL = 4096
_FEW_ROWS = 256
"""Up to so many, floats are added up faster than a tensor of them."""
_TINY = 1e-30
"""Mean square below which float32 may have lost digits: it keeps squares down to 1e-38."""
_OFF_CENTRE = 0.9
"""Squared mean over mean square above which squares are taken about the mean: below, subtracting
one from the other costs a digit at most."""
_FAR = 1e-8
"""Variance over squared mean below which the rounding of a float32 sum would show in the former."""


@dataclass(frozen=True)
class Moments:
    """Additive moments of a tensor."""

    count: float
    """Number of elements."""
    total: Scalar
    """Sum of the elements."""
    squares: Scalar
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
    if x.requires_grad:
        x = x.detach()
    if x.dtype is torch.float32 and x.layout is torch.strided:
        return x
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


def added(values: Sequence[Scalar]) -> Scalar:
    """Return the sum of numbers that are on one device or the host, without waiting for it.

    Example:
        >>> added([1.0, 2.0])
        3.0
    """
    tensors = [value for value in values if isinstance(value, Tensor)]
    rest = math.fsum(value for value in values if not isinstance(value, Tensor))
    return torch.stack(tensors).sum() + rest if tensors else rest


def square_sum(x: Tensor) -> Scalar:
    """Return the sum of squares of `x`, right to about eight digits.

    On a CPU that holds for values of any size; elsewhere, for float32 and smaller types, between
    1e-15 and 1e15: beyond, their squares leave the range of float32.

    Shape:
        ``(*)`` -> a scalar.

    Example:
        >>> square_sum(torch.tensor([3.0, 4.0]))
        25.0
    """
    if x.device.type == "cpu":
        return _host_square_sum(x)
    norm: Tensor = torch.linalg.vector_norm(x)
    return norm.to(wide(x.device)).square()


def _host_square_sum(x: Tensor) -> float:
    squares = _row_square_sum(x)
    if x.numel() * _TINY < squares < math.inf:
        return squares
    peak = max(_host_extremes(x))
    if peak in (0.0, math.inf):
        return squares
    return _row_square_sum(x / peak) * peak * peak


def _row_square_sum(x: Tensor) -> float:
    if x.dtype is torch.float64:
        return x.square().sum().item()
    count = x.numel()
    if count <= _SMALL:
        norm: float = torch.linalg.vector_norm(x).item()
        return norm * norm
    x = flat(x)
    whole = count // _ROW * _ROW
    rows: Tensor = torch.linalg.vector_norm(x[:whole].view(-1, _ROW), dim=1)
    tail: float = torch.linalg.vector_norm(x[whole:]).item() if whole < count else 0.0
    if len(rows) <= _FEW_ROWS:
        norm = math.hypot(*rows.tolist(), tail)
        return norm * norm
    rows = rows.double()
    return torch.dot(rows, rows).item() + tail * tail


def moments(x: Tensor) -> Moments:
    """Return count, sum and sum of squares of `x`, without cancellation between the last two.

    Where the mean is far from 0, squares are taken about it and moved back in float64, so that a
    variance may be computed from pooled moments even if the mean is a million times the standard
    deviation.

    Shape:
        ``(*)`` -> scalars.
    """
    x = plain(x)
    count = x.numel()
    if count == 0:
        return Moments(0.0, 0.0, 0.0)
    if x.device.type == "cpu":
        return _host_moments(x, count)
    variance, mean = torch.var_mean(x, correction=0)
    mean = mean.to(wide(x.device))
    return Moments(float(count), mean * count, (variance.to(mean.dtype) + mean * mean) * count)


def _host_moments(x: Tensor, count: int) -> Moments:
    total: float = x.sum().item()
    squares = _host_square_sum(x)
    if total * total > _OFF_CENTRE * count * squares:
        shift: float = torch.tensor(total / count, dtype=x.dtype, device="cpu").item()
        centred = x - shift
        squares = _host_square_sum(centred)
        if squares < _FAR * count * shift * shift:
            total = count * shift + centred.sum().item()
        squares += shift * (2 * total - count * shift)
    return Moments(float(count), total, squares)


def extremes(x: Tensor) -> tuple[Scalar, Scalar]:
    """Return the largest value of `x` and the negative of its smallest; NaN counts as infinity.

    Both join by max. Of an empty tensor both are 0.

    Shape:
        ``(*)`` -> two scalars.

    Example:
        >>> extremes(torch.tensor([-3.0, 2.0]))
        (2.0, 3.0)
    """
    if x.device.type == "cpu" or x.numel() == 0:
        return _host_extremes(x)
    low, high = torch.aminmax(x)
    # with NaN in the data both are NaN, which a maximum over ranks would treat as it likes
    return high.nan_to_num(nan=math.inf, posinf=math.inf), (-low).nan_to_num(
        nan=math.inf, posinf=math.inf
    )


def _host_extremes(x: Tensor) -> tuple[float, float]:
    if x.numel() == 0:
        return 0.0, 0.0
    low, high = (value.item() for value in torch.aminmax(x))
    return (math.inf, math.inf) if math.isnan(low) else (high, -low)


def largest(x: Tensor) -> Scalar:
    """Return the largest absolute value of `x`; NaN counts as infinity, an empty tensor as 0.

    Shape:
        ``(*)`` -> a scalar.
    """
    high, minus_low = extremes(x)
    if isinstance(high, Tensor) and isinstance(minus_low, Tensor):
        return torch.maximum(high, minus_low)
    return max(float(high), float(minus_low))


def nonzero_count(x: Tensor) -> Scalar:
    """Return the number of elements that are not exactly 0 (NaN is not).

    Shape:
        ``(*)`` -> a scalar.
    """
    if x.device.type != "cpu":
        return torch.count_nonzero(x)
    # ten times as fast on a CPU as count_nonzero, which adds up booleans as integers
    return torch.ne(x, 0, out=torch.empty_like(x)).sum().item()


def nonfinite_count(x: Tensor, total: Scalar) -> Scalar:
    """Return the number of NaN and infinite elements.

    Args:
        total: A sum over `x`, or of its squares: where that is finite, so is every element.

    Shape:
        ``(*)`` -> a scalar.
    """
    if isinstance(total, Tensor):
        return torch.count_nonzero(x - x)
    return 0.0 if math.isfinite(total) else float(torch.count_nonzero(x - x))


def each_square_sum(tensors: Sequence[Tensor]) -> list[Scalar]:
    """Return `square_sum` of each tensor, small ones in one call.

    Example:
        >>> each_square_sum([torch.tensor([3.0, 4.0]), torch.tensor([2.0])])
        [25.0, 4.0]
    """
    norms = _small_norms(tensors, 2.0)
    return [
        square_sum(x)
        if norm is None or not x.numel() * _TINY < norm * norm < math.inf
        else norm * norm
        for x, norm in zip(tensors, norms, strict=True)
    ]


def each_largest(tensors: Sequence[Tensor]) -> list[Scalar]:
    """Return `largest` of each tensor, small ones in one call."""
    norms = _small_norms(tensors, math.inf)
    return [
        largest(x) if norm is None or math.isnan(norm) else norm
        for x, norm in zip(tensors, norms, strict=True)
    ]


def each_nonzero_count(tensors: Sequence[Tensor]) -> list[Scalar]:
    """Return `nonzero_count` of each tensor, small ones in one call."""
    norms = _small_norms(tensors, 0.0)
    return [
        nonzero_count(x) if norm is None else norm for x, norm in zip(tensors, norms, strict=True)
    ]


def _small_norms(tensors: Sequence[Tensor], order: float) -> list[float | None]:
    """Return a norm of each small float32 tensor on the CPU, None for the others.

    Half of a model's parameters are biases and scales, for which a call costs more than its work.
    """
    is_small = [
        x.device.type == "cpu" and x.dtype is torch.float32 and 0 < x.numel() <= _SMALL
        for x in tensors
    ]
    small = [x for x, is_it in zip(tensors, is_small, strict=True) if is_it]
    if not small:
        return [None] * len(tensors)
    found = iter(torch.stack(torch._foreach_norm(small, order)).tolist())
    return [next(found) if is_it else None for is_it in is_small]


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
