"""The functions whose calls are watched: name and kind of each, by the object that torch passes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn import functional


class Function(NamedTuple):
    """A function that a forward pass may call."""

    name: str
    """As it stands in a place, such as ``relu``."""
    kind: str
    """relu, leaky, sigmoid, tanh, hard, softmax, smooth, cell, layer, norm, direction or loss."""
    channels_last: bool | None = None
    """For layers: whether their output counts units in its last dimension."""
    given: str = "input"
    """The first parameter."""


_NAMES: dict[str, tuple[str, ...]] = {
    "relu": ("relu",),
    "leaky": ("leaky_relu", "elu", "celu", "selu", "rrelu", "prelu"),
    "sigmoid": ("sigmoid",),
    "tanh": ("tanh",),
    "hard": ("hardtanh", "hardsigmoid", "relu6", "hardswish", "softsign"),
    "softmax": ("softmax", "log_softmax"),
    "smooth": ("gelu", "silu", "mish", "softplus", "logsigmoid"),
    "cell": ("rnn_tanh_cell", "rnn_relu_cell"),
}
_LAYERS = {
    "linear": True,
    "bilinear": True,
    "conv1d": False,
    "conv2d": False,
    "conv3d": False,
    "conv_transpose1d": False,
    "conv_transpose2d": False,
    "conv_transpose3d": False,
}
_LOSSES = (
    "cross_entropy",
    "nll_loss",
    "multi_margin_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "soft_margin_loss",
    "multilabel_soft_margin_loss",
    "mse_loss",
    "l1_loss",
    "smooth_l1_loss",
    "huber_loss",
    "kl_div",
    "poisson_nll_loss",
    "gaussian_nll_loss",
    "hinge_embedding_loss",
)
"""Losses of a prediction and its target."""
OPERANDS: dict[str, tuple[str, ...]] = {
    "triplet_margin_loss": ("anchor", "positive", "negative"),
    "triplet_margin_with_distance_loss": ("anchor", "positive", "negative"),
    "cosine_embedding_loss": ("input1", "input2"),
    "margin_ranking_loss": ("input1", "input2"),
    "multilabel_margin_loss": ("input",),
    "ctc_loss": ("log_probs",),
}
"""Losses without a target for each number that is predicted: the arguments that may be trained."""
UNITS_LAST: frozenset[Any] = frozenset(
    {torch.matmul, torch.bmm, torch.baddbmm, torch.einsum, torch.tensordot}
    | {torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.bmm, torch.Tensor.baddbmm}
    | {torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu}
    | {functional.embedding, functional.multi_head_attention_forward}
)
"""Other functions whose outputs count units in the last dimension, like a linear layer's."""


def _table() -> dict[Any, Function]:
    table: dict[Any, Function] = {}
    for kind, names in _NAMES.items():
        for name in names:
            for owner in (functional, torch, torch.Tensor, torch.special):
                for variant in (name, name + "_"):
                    function: Callable[..., Any] | None = getattr(owner, variant, None)
                    if function is not None:
                        table[function] = Function(name, kind)
    table[torch.special.expit] = Function("sigmoid", "sigmoid")
    for name, channels_last in _LAYERS.items():
        table[getattr(functional, name)] = Function(name, "layer", channels_last)
        if hasattr(torch, name):
            table[getattr(torch, name)] = Function(name, "layer", channels_last)
    table[functional.batch_norm] = Function("batch_norm", "norm")
    table[functional.normalize] = Function("normalize", "direction")
    for name in _LOSSES:
        table[getattr(functional, name)] = Function(name, "loss")
    for name, (first, *_) in OPERANDS.items():
        table[getattr(functional, name)] = Function(name, "loss", given=first)
    return table


FUNCTIONS: dict[Any, Function] = _table()
"""What torch passes to a `TorchFunctionMode`, to what it is."""
_RELU = Function("relu", "relu")
_CLAMPS: frozenset[Any] = frozenset(
    {torch.clamp, torch.clamp_, torch.clamp_min, torch.clamp_min_, torch.clip, torch.clip_}
    | {torch.Tensor.clamp, torch.Tensor.clamp_, torch.Tensor.clamp_min, torch.Tensor.clamp_min_}
    | {torch.Tensor.clip, torch.Tensor.clip_}
)
_HARDTANHS = {
    (-1.0, 1.0): Function("hardtanh", "hard"),
    (0.0, 6.0): Function("relu6", "hard"),
}
"""By bounds; where others are flat is not known."""


def lookup(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Function | None:
    """Return what `function` is when called like this, or None if it is not watched.

    A clamp from below at 0 is a ReLU, and ``nn.ReLU6`` calls a hardtanh from 0 to 6.

    Example:
        >>> lookup(torch.tanh, (), {}).kind
        'tanh'
        >>> lookup(torch.clamp, (torch.zeros(1), 0), {}).name
        'relu'
        >>> lookup(torch.clamp, (torch.zeros(1), 0, 6), {}) is None
        True
    """
    found = FUNCTIONS.get(function)
    if found is None and function in _CLAMPS:
        low = args[1] if len(args) > 1 else kwargs.get("min")
        high = args[2] if len(args) > 2 else kwargs.get("max")
        is_zero = isinstance(low, (int, float)) and low == 0
        return _RELU if is_zero and high is None else None
    if found is not None and found.name == "hardtanh":
        low = args[1] if len(args) > 1 else kwargs.get("min_val", -1.0)
        high = args[2] if len(args) > 2 else kwargs.get("max_val", 1.0)
        return _HARDTANHS.get((low, high))
    return found


_PARAMETERS: dict[str, list[str]] = {
    name: list(inspect.signature(getattr(functional, name)).parameters)
    for name in (*_LOSSES, *OPERANDS)
}


def argument(function: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what a loss function was given for one of its parameters, None if nothing.

    Example:
        >>> argument("huber_loss", "reduction", (1, 2, "sum"), {})
        'sum'
        >>> argument("mse_loss", "weight", (1, 2), {}) is None
        True
    """
    if name in kwargs:
        return kwargs[name]
    names = _PARAMETERS[function]
    position = names.index(name) if name in names else len(args)
    return args[position] if position < len(args) else None
