"""A copy of a module in float64, whatever precision its code asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_diag.checks.few import mapped

_LOWER = frozenset({torch.float32, torch.float16, torch.bfloat16})
_CASTS: frozenset[Any] = frozenset({torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16})


class Double(TorchFunctionMode):
    """Turns what functions make of lower precision into float64; autocast leaves that alone.

    Example:
        >>> with Double():
        ...     (torch.ones(1).half() + torch.zeros(1, dtype=torch.float32)).dtype
        torch.float64
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _CASTS:
            return args[0].double()
        if any(type(each) is torch.dtype for each in args):
            args = tuple(map(_higher, args))
        if type(kwargs.get("dtype")) is torch.dtype:
            kwargs = {**kwargs, "dtype": _higher(kwargs["dtype"])}
        output = func(*args, **kwargs)
        return raised(output) if type(output) in (Tensor, tuple) else output


def _higher(value: Any) -> Any:
    return torch.float64 if type(value) is torch.dtype and value in _LOWER else value


def raised(value: Any) -> Any:
    """Return tensors of lower precision as float64, also within lists and dictionaries.

    Example:
        >>> raised([torch.ones(1), torch.arange(1)])[0].dtype
        torch.float64
    """
    if type(value) is Tensor and value.dtype not in _LOWER:
        return value
    return mapped(lambda tensor: tensor.double() if tensor.dtype in _LOWER else tensor, value)


def make_double(module: nn.Module) -> None:
    """Turn a module into float64: parameters, buffers, and tensors that are plain attributes."""
    module.double()
    for each in module.modules():
        for name, value in list(vars(each).items()):
            if name not in ("_parameters", "_buffers", "_modules") and _holds_tensors(value):
                vars(each)[name] = raised(value)


def _holds_tensors(value: Any) -> bool:
    if type(value) in (list, tuple):
        return bool(value) and any(isinstance(member, Tensor) for member in value)
    if type(value) is dict:
        return any(isinstance(member, Tensor) for member in value.values())
    return type(value) is Tensor


@contextmanager
def in_double() -> Iterator[None]:
    """Run everything in float64: tensors that are made, too."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with Double():
            yield
    finally:
        torch.set_default_dtype(default)
