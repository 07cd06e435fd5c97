"""How many inputs each unit of a layer adds up, and how many units each input reaches.

Unlike `torch.nn.init`, which reads both off the shape of the weight alone, these know of groups,
strides and transposed convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Fans(NamedTuple):
    """Fan-in and fan-out, which strides can make broken numbers."""

    into: float
    """Inputs that a unit of the output adds up."""
    out: float
    """Units of the output that an input reaches."""


def linear_fans(shape: Sequence[int], *, transposed: bool = False) -> Fans:
    """Return the fans of a matrix, ``(out, in)`` or transposed ``(..., in, out)``."""
    *_, out, into = shape
    return Fans(out, into) if transposed else Fans(into, out)


def convolution_fans(
    shape: Sequence[int], *, groups: int = 1, stride: Sequence[int] = (), transposed: bool = False
) -> Fans:
    """Return the fans of a convolution, away from its edges.

    Args:
        shape: Of the weight: ``(out, in / groups, *kernel)``; if transposed
            ``(in, out / groups, *kernel)``.
        groups: Of the convolution.
        stride: One for each dimension of the kernel, or one for all.
        transposed: Whether the convolution is.

    Example:
        >>> convolution_fans((32, 1, 3, 3), groups=32)  # depthwise
        Fans(into=9.0, out=9.0)
        >>> convolution_fans((64, 16, 4, 4), stride=(2, 2), transposed=True)  # 4 of 16 taps meet
        Fans(into=256.0, out=256.0)
    """
    first, second, *kernel = shape
    taps = math.prod(kernel)
    steps = math.prod(stride) if len(stride) == len(kernel) else math.prod(stride) ** len(kernel)
    each = second * taps
    whole = first / groups * taps
    # Of a transposed convolution's taps only one in `steps` meets an output, of an ordinary one's
    # only one in `steps` an input.
    return Fans(whole / steps, float(each)) if transposed else Fans(float(each), whole / steps)


def einsum_fans(equation: str, shape: Sequence[int], operand: int) -> Fans | None:
    """Return the fans of an operand of an einsum, None where the equation has an ellipsis.

    Example:
        >>> einsum_fans("bi,ihd->bhd", (8, 2, 4), 1)
        Fans(into=8.0, out=8.0)
    """
    equation = equation.replace(" ", "")
    left, arrow, result = equation.partition("->")
    operands = left.split(",")
    if not arrow or "." in equation or len(operands[operand]) != len(shape):
        return None
    sizes = dict(zip(operands[operand], shape, strict=True))
    others = "".join(each for i, each in enumerate(operands) if i != operand)
    into = math.prod(size for letter, size in sizes.items() if letter not in result)
    out = math.prod(size for letter, size in sizes.items() if letter not in others)
    return Fans(float(into), float(out))
