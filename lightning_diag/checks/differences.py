"""Gradients against centred differences, a few coordinates at a time (C4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

STEPS = (1e-5, 1e-6, 1e-4, 1e-7, 1e-3)
"""Half-widths of a difference, in the order in which they are tried: about 1e-5 is best in double
precision (CS231n); the others are asked only where it does not agree, and tell a kink, a sharp bend
and a rounding error from a gradient that is wrong."""
ROUNDING = 100 * torch.finfo(torch.float64).eps
"""What the value of a deep network may be off by, relative to it. Our choice: sums of many numbers
round each time."""
DIGITS = 10.0
"""By how much a gradient must stand out from that to be judged at all (our choice)."""

Verdict = Literal["right", "near", "kink", "small", "wrong"]
"""``right`` agrees to the kink tolerance, ``near`` to less than what is wrong, ``kink`` has a bend
or a jump there, ``small`` is below what rounding leaves to see."""


class Value(NamedTuple):
    """What a function returned."""

    value: float
    is_same: bool = True
    """Whether every unit and maximum chose as it does at the point itself: no kink was passed."""


class Coordinate(NamedTuple):
    """A gradient's element against a difference."""

    element: int
    """Its place in the flattened tensor."""
    analytic: float
    """What autograd says."""
    numeric: float
    """The centred difference that is nearest to it."""
    verdict: Verdict
    is_flat: bool = False
    """Whether the function does not change at all, to either side, in the narrowest difference."""

    @property
    def error(self) -> float:
        """The relative error: the difference over the larger of both."""
        return relative_error(self.analytic, self.numeric)


def relative_error(one: float, other: float) -> float:
    """Return the difference of two numbers over the larger of them; 0 for two zeros.

    Example:
        >>> relative_error(1.0, 0.99), relative_error(0.0, 0.0)
        (0.010000000000000009, 0.0)
    """
    largest = max(abs(one), abs(other))
    return abs(one - other) / largest if largest else 0.0


def compared(
    at: Callable[[float], Value],
    analytic: float,
    centre: float,
    *,
    index: int = 0,
    wrong: float = 1e-2,
    kink: float = 1e-4,
) -> Coordinate:
    """Compare a derivative with differences of a function of one number.

    Args:
        at: The function, of how far from the point it is.
        analytic: What its derivative at 0 is said to be.
        centre: Its value at 0.
        index: Only passed on.
        wrong: Relative error from which on it is wrong, in each of `STEPS`.
        kink: Relative error that is right.

    Example:
        >>> compared(lambda x: Value((3 + x) ** 2), 6.0, 9.0).verdict
        'right'
        >>> compared(lambda x: Value((3 + x) ** 2), 3.0, 9.0).verdict
        'wrong'
        >>> compared(lambda x: Value(abs(x)), 1.0, 0.0).verdict
        'kink'
    """
    best = Coordinate(index, analytic, math.nan, "small")
    bent, narrowest, flat = False, math.inf, False
    for step in STEPS:
        above, below = at(step), at(-step)
        right, left = (above.value - centre) / step, (centre - below.value) / step
        numeric, noise = (right + left) / 2, ROUNDING * abs(centre) / step
        if not math.isfinite(numeric):
            continue
        is_flat = above.value == below.value == centre
        narrowest, flat = min((narrowest, flat), (step, is_flat))
        largest = max(abs(analytic), abs(numeric))
        error = relative_error(analytic, numeric)
        is_seen = wrong * largest >= DIGITS * noise or abs(analytic - numeric) > DIGITS * noise
        if not (above.is_same and below.is_same):
            bent = True
        elif error <= kink and (largest >= DIGITS * noise or error == 0):
            return Coordinate(index, analytic, numeric, "right", is_flat)
        elif is_seen and _is_bent(left, right, analytic, kink, noise):
            bent = True
        elif is_seen and best.verdict != "small" and relative_error(numeric, best.numeric) <= kink:
            break  # no width will change it any more
        elif is_seen and not error >= best.error:
            best = Coordinate(index, analytic, numeric, "near" if error < wrong else "wrong")
    if best.verdict == "small" and bent:
        best = best._replace(verdict="kink")
    return best._replace(is_flat=flat)


def _is_bent(left: float, right: float, analytic: float, kink: float, noise: float) -> bool:
    """Whether both sides differ, and what autograd says lies between or at one of them."""
    slack = kink * max(abs(left), abs(right)) + DIGITS * noise
    between = min(left, right) - slack <= analytic <= max(left, right) + slack
    return between and abs(right - left) > slack


def differences(
    value: Callable[[], Value],
    tensors: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    *,
    coordinates: int = 3,
    seed: int = 0,
    wrong: float = 1e-2,
    kink: float = 1e-4,
) -> Iterator[tuple[str, Coordinate]]:
    """Yield how gradients compare with differences, one coordinate of each tensor after another.

    Of each tensor the first coordinate is the one with the largest gradient; the others are drawn.
    Tensors are as before after each, bit for bit.

    Args:
        value: The function of the tensors, which must return the same each time.
        tensors: Leaves in float64, by name.
        gradients: What autograd says of each, of the same shape.
        coordinates: How many of each tensor, at most.
        seed: Of the draw.
        wrong: See `compared`.
        kink: See `compared`.

    Cost:
        Two calls of `value` for a coordinate that is right, four for most that are not, ten for
        one at a kink.

    Example:
        >>> x = torch.tensor([1.0, 2.0], dtype=torch.float64)
        >>> found = differences(lambda: Value(float((x**3).sum())), {"x": x}, {"x": 3 * x**2})
        >>> [(name, c.verdict, round(c.numeric)) for name, c in found]
        [('x', 'right', 12), ('x', 'right', 3)]
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = {name: _drawn(gradients[name], coordinates, generator) for name in tensors}
    centre = value().value
    for turn in range(coordinates):
        for name, tensor in tensors.items():
            if turn < len(chosen[name]):
                index = chosen[name][turn]
                analytic = float(gradients[name].reshape(-1)[index])
                at = _moving(value, tensor, index)
                yield name, compared(at, analytic, centre, index=index, wrong=wrong, kink=kink)


def _drawn(gradient: Tensor, n: int, generator: torch.Generator) -> list[int]:
    """Return the coordinate of the largest gradient, and others, without repetition."""
    size = gradient.numel()
    if not size:
        return []
    largest = int(gradient.reshape(-1).abs().argmax())
    drawn = torch.randint(size, (4 * n,), generator=generator).tolist()
    return list(dict.fromkeys([largest, *drawn]))[:n]


def _moving(value: Callable[[], Value], tensor: Tensor, index: int) -> Callable[[float], Value]:
    place = []
    for size in reversed(tensor.shape):
        index, position = divmod(index, size)
        place.append(position)
    where = tuple(reversed(place))

    def at(distance: float) -> Value:
        with torch.no_grad():
            before = tensor[where].clone()
            tensor[where] = before + distance
            try:
                return value()
            finally:
                tensor[where] = before

    return at
