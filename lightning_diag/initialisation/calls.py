"""Reads a call of a function of torch: which layer or activation it is, and of what size."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeGuard

from torch import Tensor
from torch.nn import functional

from lightning_diag.initialisation import words
from lightning_diag.initialisation.fans import Fans, convolution_fans, einsum_fans, linear_fans
from lightning_diag.initialisation.flow import Flow

_MULTI_HEAD = list(inspect.signature(functional.multi_head_attention_forward).parameters)
_GROUPS = 6
"""Position of the groups in calls of convolutions, transposed or not."""


class Call(NamedTuple):
    """A function of torch that is called with tensors."""

    name: str
    """Of the function, plain."""
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    operands: list[Tensor]
    """The tensors of floats among the arguments."""
    flows: list[Flow]
    """What is known of each."""

    @property
    def data(self) -> list[Flow]:
        """What is known of those that are not made of parameters alone."""
        return [flow for flow in self.flows if not flow.origin]

    def given(self, position: int, *names: str) -> Any:
        """Return an argument, None if it is not there."""
        for each in names:
            if each in self.kwargs:
                return self.kwargs[each]
        return self.args[position] if len(self.args) > position else None

    def place_of(self, wanted: Any) -> int | None:
        """Return which operand a tensor is."""
        return next((i for i, x in enumerate(self.operands) if x is wanted), None)


class LayerCall(NamedTuple):
    """How a layer is called."""

    weight: int
    """Which operand its weight is."""
    fans: Fans | None


def tensors_in(values: Any) -> Iterator[Tensor]:
    """Yield the tensors in what a function takes or a module returns."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for each in values:
            yield from tensors_in(each)
    elif isinstance(values, dict):
        for each in values.values():
            yield from tensors_in(each)
    elif hasattr(values, "__dataclass_fields__"):
        for name in values.__dataclass_fields__:
            yield from tensors_in(getattr(values, name, None))


def name_of(func: Any) -> str:
    """Return the plain name of what torch hands to a mode."""
    name = getattr(func, "__name__", "")
    if name == "__get__":  # of a property, such as `x.T`
        name = getattr(getattr(func, "__self__", None), "__name__", "")
    return words.plain_name(name)


def activation(call: Call) -> tuple[str, float | None]:
    """Return which activation a call is, empty if none, and its parameter."""
    name = call.name
    if name in words.CLAMPS:
        low, high = call.given(1, "min"), call.given(2, "max")
        return ("relu" if _is_number(low) and low == 0 and high is None else ""), None
    if name == "hardtanh" and (call.given(1, "min_val"), call.given(2, "max_val")) == (0.0, 6.0):
        return "relu6", None
    if name in words.ACTIVATIONS:
        return words.SAME.get(name, name), _parameter(call)
    return "", None


def _parameter(call: Call) -> float | None:
    """Return the slope or alpha of an activation."""
    if call.name == "rrelu":
        low, high = call.given(1, "lower"), call.given(2, "upper")
        both = (low, high) if _is_number(low) and _is_number(high) else (1 / 8, 1 / 3)
        return float(sum(both)) / 2
    if call.name == "prelu":
        weight = call.given(1, "weight")
        return float(weight.detach().mean()) if isinstance(weight, Tensor) else None
    given: Any = call.given(1, "negative_slope", "alpha") if call.name in words.SHAPED else None
    return float(given) if _is_number(given) else None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def consumer(name: str) -> str:
    """Return what a function is to a layer whose output it takes, if nothing else is known."""
    if name in words.RECURRENT:
        return "gates"
    if name in words.ATTENTION:
        return "attention"
    if name in words.SOFTMAX:
        return "softmax"
    if words.is_loss(name):
        return "loss"
    return "product" if name in words.MATRIX | words.ADD_MATRIX | {"einsum"} else name


def layer_call(call: Call) -> LayerCall | None:
    """Return how a layer is called, None if the function is not one, or has no parameters."""
    name = call.name
    if name in words.WEIGHTED:
        index = call.place_of(call.given(2 if name == "bilinear" else 1, "weight"))
        is_one = index is not None and bool(call.flows[index].origin)
        return LayerCall(index or 0, _fans(call, call.operands[index or 0])) if is_one else None
    if name == words.MULTI_HEAD:
        given = {**dict(zip(_MULTI_HEAD, call.args, strict=False)), **call.kwargs}
        index = call.place_of(given.get("out_proj_weight"))
        return None if index is None else LayerCall(index, _matrix_fans(call, index))
    if name in words.EMBEDDINGS:
        index = next((i for i, flow in enumerate(call.flows) if flow.origin), None)
        return None if index is None else LayerCall(index, None)
    return _product_call(call) if name in words.MATRIX | words.ADD_MATRIX | {"einsum"} else None


def _matrix_fans(call: Call, index: int) -> Fans:
    return linear_fans(call.operands[index].shape)


def _fans(call: Call, weight: Tensor) -> Fans:
    if call.name == "linear":
        return linear_fans(weight.shape)
    if call.name == "bilinear":
        out, first, second = weight.shape
        return Fans(float(first * second), float(out))
    stride = call.given(3, "stride")
    steps = tuple(stride) if isinstance(stride, (tuple, list)) else (stride or 1,)
    groups = call.given(_GROUPS, "groups") or 1
    is_transposed = call.name in words.TRANSPOSED
    return convolution_fans(weight.shape, groups=groups, stride=steps, transposed=is_transposed)


def _product_call(call: Call) -> LayerCall | None:
    """Return how a product with a matrix of parameters is called; a sum before it is no weight."""
    first = 1 if call.name in words.ADD_MATRIX and len(call.operands) == 3 else 0
    wide = [i for i in range(first, len(call.flows)) if call.operands[i].ndim >= 2]
    found = [i for i in wide if call.flows[i].origin]
    if len(found) != 1 or len(call.operands) - first != 2:
        return None
    index = found[0]
    shape, position = call.operands[index].shape, index - first
    if call.name == "einsum":
        equation = call.args[0] if call.args and isinstance(call.args[0], str) else ""
        return LayerCall(index, einsum_fans(equation, shape, position))
    # x @ w has w as (in, out), w @ x as (out, in).
    is_right = (position == 1) != (call.name == "rmatmul")
    return LayerCall(index, linear_fans(shape, transposed=is_right))
