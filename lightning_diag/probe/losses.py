"""What a loss function is called with: prediction, target, and where the prediction comes from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_diag.measure.base import LossCall
from lightning_diag.probe.functions import OPERANDS, argument

_VIEWS = frozenset(
    {
        *("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Transpose", "T", "Where"),
        *("Permute", "Select", "Slice", "ToCopy", "Clone", "Expand", "Alias", "Index"),
        *("AsStrided", "Unbind", "SplitWithSizes", "Split", "Clamp", "ClampMin", "ClampMax"),
    }
)
"""Operations that hand on what an activation function computed. Clamps are among them: they keep
probabilities away from 0 and 1; and ``where``, which keeps NaN out of a loss."""
_ACTIVATIONS = {
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
    "Log": "log",
    "Sigmoid": "sigmoid",
    "LogSigmoid": "logsigmoid",
    "LogSigmoidForward": "logsigmoid",
    "Tanh": "tanh",
    "Relu": "relu",
    "Hardtanh": "hardtanh",
    "Hardsigmoid": "hardsigmoid",
    "Softplus": "softplus",
    "Exp": "exp",
}
_DEPTH = 8
"""Our choice: nobody reshapes an output more often."""


def loss_call(
    function: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, trained: bool = True
) -> LossCall | None:
    """Read a call of a loss function; None if nothing is trained by it, or cannot be read.

    In training a loss of detached tensors is there to be looked at by its caller. Of several
    embeddings or scores that are compared, the first that is trained stands for all, and there is
    no target.

    Args:
        function: Its name.
        args: What it was given.
        kwargs: What it was given by name.
        trained: Whether the prediction must have a gradient, which in validation none has.
    """
    given = [argument(function, name, args, kwargs) for name in OPERANDS.get(function, ("input",))]
    tensors = [x for x in given if isinstance(x, Tensor)]
    prediction = next((x for x in tensors if x.requires_grad or not trained), None)
    if function in OPERANDS:
        target = torch.empty(0, device="cpu")
    else:
        target = argument(function, "target", args, kwargs)
    if prediction is None or not _is_plain(prediction) or not _is_plain(target):
        return None
    return LossCall(
        place="",
        function=function,
        kind="loss",
        unit_dim=1,
        input=_batch_first(prediction) if function == "ctc_loss" else prediction,
        target=target,
        reduction=_reduction(function, args, kwargs),
        weighted=any(
            argument(function, name, args, kwargs) is not None for name in ("weight", "pos_weight")
        ),
        ignore_index=_ignored(function, args, kwargs),
        scale=float(
            next(
                (
                    value
                    for name in ("beta", "delta")
                    if (value := argument(function, name, args, kwargs)) is not None
                ),
                1.0,
            )
        ),
        activation=activation_of(prediction),
    )


def _is_plain(x: Any) -> bool:
    """Return whether `x` is a dense tensor of real numbers."""
    if type(x) not in (Tensor, nn.Parameter) or x.layout is not torch.strided or x.is_complex():
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(x)


def _batch_first(x: Tensor) -> Tensor:
    """Return what begins with time with the samples first, as anything else does.

    Shape:
        ``(time, batch, classes)`` -> ``(batch, time, classes)``; ``(time, classes)`` as it is.
    """
    return x.detach().transpose(0, 1) if x.dim() > 2 else x


def _reduction(function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    if argument(function, "reduce", args, kwargs) is False:
        return "none"
    if argument(function, "size_average", args, kwargs) is False:
        return "sum"
    return argument(function, "reduction", args, kwargs) or "mean"


def _ignored(function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    if function not in ("cross_entropy", "nll_loss"):
        return None
    found = argument(function, "ignore_index", args, kwargs)
    return -100 if found is None else int(found)


def activation_of(x: Tensor) -> str:
    """Return the activation function whose output `x` is, reshaped at most; "" if it is none.

    It is read off the graph that backward will run through.

    Example:
        >>> x = torch.ones(2, 1, requires_grad=True)
        >>> activation_of(torch.sigmoid(x).squeeze(1)), activation_of(2 * x)
        ('sigmoid', '')
    """
    node = x.grad_fn
    for _ in range(_DEPTH):
        if node is None:
            return ""
        name = node.name().partition("Backward")[0]
        if name in _ACTIVATIONS:
            return _ACTIVATIONS[name]
        if name not in _VIEWS or not node.next_functions:
            return ""
        node = node.next_functions[0][0]
    return ""
