"""Which gain weights need for the activation behind them, so that the signal keeps its size.

With weights of standard deviation ``gain / sqrt(fan_in)`` and inputs of mean square 1, a layer's
output is near N(0, gain^2). What comes out of the activation has mean square 1 again if
``E[f(gain z)^2] = 1`` with z ~ N(0, 1). That is He's gain for ReLU and Klambauer's 1 for SELU, and
gives one for ELU, GELU and the like, too. What is bounded never gets there (tanh), or only where it
is flat; around 0 it is a line, which keeps differences with ``1 / (|f'(0)| sqrt(1 + f(0)^2))``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

_HALF_WIDTH = 12.0
_POINTS = 4801
"""Points of the integral: enough for six digits, kinks included."""
_ROOT_TWO = math.sqrt(2.0)

_Family = Callable[[float], Callable[[Tensor], Tensor]]

_GROWING: dict[str, _Family] = {
    "relu": lambda _: functional.relu,
    "leaky_relu": lambda slope: lambda x: functional.leaky_relu(x, slope),
    "elu": lambda alpha: lambda x: functional.elu(x, alpha),
    "celu": lambda alpha: lambda x: functional.celu(x, alpha),
    "selu": lambda _: functional.selu,
    "gelu": lambda _: functional.gelu,
    "silu": lambda _: functional.silu,
    "mish": lambda _: functional.mish,
    "hardswish": lambda _: functional.hardswish,
}
"""Functions that pass large values on, by their parameter."""
_FLAT: dict[str, tuple[float, float]] = {
    "tanh": (0.0, 1.0),
    "softsign": (0.0, 1.0),
    "hardtanh": (0.0, 1.0),
    "sigmoid": (0.5, 0.25),
    "hardsigmoid": (0.5, 1 / 6),
}
"""Bounded functions: value and slope at 0."""
DEFAULTS = {"leaky_relu": 0.01, "elu": 1.0, "celu": 1.0}
"""Parameter of functions that have one."""
RELU_LIKE = ("relu", "relu6", "leaky_relu", "softplus")
"""What He's initialisation is for."""


def activation_gain(name: str, parameter: float | None = None) -> float | None:
    """Return the gain of the weights before an activation, None if it is not known.

    Unlike `torch.nn.init.calculate_gain` it gives 1 for SELU (not 3/4, under which a net does not
    normalise itself) and for tanh (not 5/3, under which gradients grow), 3.6 for sigmoid (not 1,
    under which it passes on a sixteenth of the variance), and it knows GELU and the like.

    Args:
        name: As in `torch.nn.functional`, such as ``leaky_relu``; ``glu`` is known as well.
        parameter: Negative slope or alpha, if the activation has one.

    Example:
        >>> round(activation_gain("relu"), 4), round(activation_gain("gelu"), 3)
        (1.4142, 1.468)
        >>> round(activation_gain("selu"), 3), activation_gain("tanh")
        (1.0, 1.0)

    References:
        He et al., Delving deep into rectifiers, 2015, arXiv:1502.01852. Klambauer et al.,
        Self-normalizing neural networks, 2017, arXiv:1706.02515. Kumar, On weight initialization
        in deep neural networks, 2017, arXiv:1704.08863 (of functions that are bounded).
    """
    if name in _GROWING:
        return _keeping_gain(name, DEFAULTS.get(name, 0.0) if parameter is None else parameter)
    if name in _FLAT:
        value, slope = _FLAT[name]
        return 1 / (slope * math.sqrt(1 + value**2))
    if name in ("relu6", "softplus"):
        # Softplus is a ReLU with a rounded corner: 1.08 would keep the mean square, most of which
        # is its mean, and a third of the gradient's variance a layer.
        return _ROOT_TWO
    return _glu_gain() if name == "glu" else None


@cache
def _keeping_gain(name: str, parameter: float) -> float | None:
    function = _GROWING[name](parameter)
    if name == "leaky_relu":
        return math.sqrt(2 / (1 + parameter**2))
    return _ROOT_TWO if name == "relu" else keeping_gain(function)


@cache
def _glu_gain() -> float:
    z, weight = _normal()

    def mean_square(gain: float) -> float:
        return gain**2 * float((weight * torch.sigmoid(gain * z) ** 2).sum())

    return _solve(mean_square)


def keeping_gain(function: Callable[[Tensor], Tensor]) -> float | None:
    """Return the gain that solves ``E[f(gain z)^2] = 1``, None if none from 0.1 to 20 does.

    Args:
        function: Of single elements; it is given float64.

    Example:
        >>> round(keeping_gain(lambda x: x.abs()), 4)
        1.0
        >>> keeping_gain(torch.tanh) is None
        True
    """
    z, weight = _normal()

    def mean_square(gain: float) -> float:
        return float((weight * function(gain * z) ** 2).sum())

    return _solve(mean_square) if mean_square(0.1) < 1 < mean_square(20.0) else None


def _solve(growing: Callable[[float], float]) -> float:
    low, high = 0.1, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if growing(middle) < 1 else (low, middle)
    return (low + high) / 2


@cache
def _normal() -> tuple[Tensor, Tensor]:
    """Return points and weights of the standard normal."""
    with torch.no_grad():
        z = torch.linspace(-_HALF_WIDTH, _HALF_WIDTH, _POINTS, dtype=torch.float64, device="cpu")
        weight = torch.exp(-(z**2) / 2)
        return z, weight / weight.sum()
