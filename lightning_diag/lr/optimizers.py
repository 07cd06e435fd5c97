"""Families of optimizers, as far as learning rates scale and warm up alike in them."""

from __future__ import annotations

from typing import Any, Literal

_ADAM = ("adam", "lamb", "adabelief", "adopt")
_ADAPTIVE = (*_ADAM, "rmsprop", "adagrad", "adadelta", "adafactor", "yogi", "novograd")
_PLAIN = ("sgd", "lars")


def family(optimizer: Any) -> Literal["plain", "adaptive"] | None:
    """Say whether an optimizer divides by the size of past gradients; None if it is unknown.

    Known by the names of its classes: ``MyAdam``, and what derives from ``Adam``, are adaptive.
    """
    names = _names(optimizer)
    if any(part in name for name in names for part in _ADAPTIVE):
        return "adaptive"
    return "plain" if any(part in name for name in names for part in _PLAIN) else None


def is_adam(optimizer: Any) -> bool:
    """Say whether an optimizer is of the Adam family."""
    return any(part in name for name in _names(optimizer) for part in _ADAM)


def _names(optimizer: Any) -> list[str]:
    return [cls.__name__.lower() for cls in type(optimizer).__mro__]
