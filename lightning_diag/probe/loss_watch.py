"""Sees the calls of loss functions in validation, where nothing has a gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_diag.measure.base import Call, LossCall
from lightning_diag.probe.functions import FUNCTIONS, Function
from lightning_diag.probe.losses import loss_call
from lightning_diag.probe.watch import CallWatch, is_readable


class LossWatch(CallWatch):
    """Shows every call of a loss function; all other functions run as they are.

    Args:
        modules: Path of each module that may be running, by ``id``.
        show: Takes each call when it has returned.
    """

    def __init__(self, modules: Mapping[int, str], show: Callable[[LossCall], None]) -> None:
        super().__init__(modules, (), lambda *_: None, lambda *_: None)  # without measures
        self._show = show

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        function = FUNCTIONS.get(func)
        if function is None or function.kind != "loss" or not self._entered:
            return func(*args, **kwargs)
        output = func(*args, **kwargs)
        call = self._call(function, args, kwargs)
        if isinstance(call, LossCall) and isinstance(output, Tensor):
            call.output = output
            with torch.no_grad():
                self._show(call)
        return output

    def _call(
        self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Call | None:
        x = args[0] if args else kwargs.get(function.given)
        if not isinstance(x, Tensor) or not is_readable(x, inference=True):
            return None
        return self._named(function, loss_call(function.name, args, kwargs, trained=False))
