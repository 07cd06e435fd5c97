"""Trainings without what makes them harder on purpose: dropout, label smoothing, weight decay."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_DROPPED = ("StochasticDepth", "DropPath", "DropBlock")
"""Parts of the names of modules that drop at random, in torchvision and timm."""


class Calm(TorchFunctionMode):
    """Runs functions without dropout and without label smoothing while it is entered.

    Example:
        >>> with Calm():
        ...     functional.dropout(torch.ones(3), 0.9)
        tensor([1., 1., 1.])
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        off = _OFF.get(func)
        if off is not None:
            name, position, value = off
            if position is not None and len(args) > position:
                args = (*args[:position], value, *args[position + 1 :])
            else:
                kwargs[name] = value
        return func(*args, **kwargs)


def calmed(module: nn.Module, optimizers: Iterable[Any] = ()) -> None:
    """Switch off what modules and optimizers drop and decay; only for copies.

    Example:
        >>> net = nn.GRU(1, 1, 2, dropout=0.5)
        >>> calmed(net)
        >>> net.dropout
        0.0
    """
    for each in module.modules():
        if any(part in type(each).__name__ for part in _DROPPED):
            each.training = False
        if isinstance(each, (nn.RNNBase, nn.MultiheadAttention)):
            each.dropout = 0.0
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if group.get("weight_decay"):
                group["weight_decay"] = type(group["weight_decay"])(0)


def _position(function: Callable[..., Any], name: str) -> int | None:
    try:
        return list(inspect.signature(function).parameters).index(name)
    except ValueError:  # builtin, or without it
        return None


def _table() -> dict[Any, tuple[str, int | None, Any]]:
    """Return the argument to change of each function, where it stands, and its new value."""
    table: dict[Any, tuple[str, int | None, Any]] = {}
    names = ("dropout", "alpha_dropout", "dropout1d", "dropout2d", "dropout3d",
             "feature_alpha_dropout")  # fmt: skip
    for name in names:
        function = getattr(functional, name)
        table[function] = ("training", _position(function, "training"), False)
    for name in ("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"):
        table[getattr(torch, name)] = ("train", 2, False)
    table[functional.scaled_dot_product_attention] = ("dropout_p", 4, 0.0)
    attention = functional.multi_head_attention_forward
    table[attention] = ("dropout_p", _position(attention, "dropout_p"), 0.0)
    entropy = functional.cross_entropy
    table[entropy] = ("label_smoothing", _position(entropy, "label_smoothing"), 0.0)
    return table


_OFF = _table()
