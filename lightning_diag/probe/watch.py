"""Sees the calls of one forward pass, with inputs before in-place functions overwrite them.

A `TorchFunctionMode` is entered when a watched batch begins and left before backward, so that what
activation checkpointing recomputes is not counted. Two global module hooks keep the path of the
module that is running. Nothing is attached to any module, tensor or parameter (P17, P18).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn, overrides
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from lightning_diag.measure.base import Call, CallMeasure, Columns
from lightning_diag.measure.moments import MomentsCache
from lightning_diag.probe.functions import MATRIX_PRODUCTS, Function, lookup

# private, but in every torch since 2.0: a mode must be found and taken off below others
_get_current_function_mode_stack: Callable[[], list[Any]] = (
    overrides._get_current_function_mode_stack
)
_pop_mode: Callable[[], Any] = overrides._pop_mode
_push_mode: Callable[[Any], None] = overrides._push_mode

Sink = Callable[[CallMeasure, Call, Columns], None]
Look = Callable[[CallMeasure, Callable[[Call], Columns | None], Call], Columns | None]


class CallWatch(TorchFunctionMode):
    """Reports the columns of every watched call to `sink`.

    Args:
        names: Path of each module by ``id``.
        measures: Measures still in use; looked at anew on every call.
        sink: Takes measure, call and columns.
        look: Runs one observation; returns None and switches the measure off if it raises.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        measures: Sequence[CallMeasure],
        sink: Sink,
        look: Look,
    ) -> None:
        super().__init__()
        self._names = names
        self._measures = measures
        self._sink = sink
        self._look = look
        self._stack: list[tuple[str, nn.Module]] = []
        self._calls: dict[str, int] = {}
        self._cache = MomentsCache()
        self._channels_last = False
        self._handles: list[RemovableHandle] = []
        self._entered = False
        self.sites: dict[str, Function] = {}

    def start(self) -> None:
        """Begin a forward pass: names count from 0 again."""
        self.stop()
        self._calls.clear()
        self._handles = [
            register_module_forward_pre_hook(self._push),
            register_module_forward_hook(self._pop, always_call=True),
        ]
        self.resume()

    def resume(self) -> None:
        """Go on watching after `pause`."""
        if not self._handles or self._entered:
            return
        self._entered = True
        if not self._on_stack():
            _push_mode(self)

    def pause(self) -> None:
        """Stop seeing calls, as while backward runs."""
        self._cache.clear()
        self._entered = False
        if not self._on_stack():
            return
        modes = []
        # another mode may have been entered since and not left: it goes back in its place
        while (top := _pop_mode()) is not self:
            modes.append(top)
        for mode in reversed(modes):
            _push_mode(mode)

    def _on_stack(self) -> bool:
        return any(mode is self for mode in _get_current_function_mode_stack())

    def stop(self) -> None:
        """Detach everything. May be called at any time, and again."""
        self.pause()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._stack.clear()

    def _push(self, module: nn.Module, args: Any) -> None:
        path = self._names.get(id(module))
        if path is None:
            path = self._stack[-1][0] if self._stack else ""
        self._stack.append((path, module))

    def _pop(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._stack:
            self._stack.pop()

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        function = lookup(func, args, kwargs) if self._entered else None
        if function is None:
            if func in MATRIX_PRODUCTS:
                self._channels_last = True
            return func(*args, **kwargs)
        call = self._call(function, args, kwargs)
        if call is None:
            return func(*args, **kwargs)
        self._observe(call, "before")
        call.output = func(*args, **kwargs)
        if isinstance(call.output, Tensor):
            self._observe(call, "after")
        return call.output

    def _call(
        self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Call | None:
        x = args[0] if args else kwargs.get("input")
        if not isinstance(x, Tensor) or not self._visible(x):
            return None
        path = self._stack[-1][0] if self._stack else ""
        site = f"{path}/{function.name}" if path else function.name
        index = self._calls.get(site, 0)
        self._calls[site] = index + 1
        place = f"{site}#{index}"
        self.sites.setdefault(place, function)
        if function.channels_last is not None:
            self._channels_last = function.channels_last
        unit_dim = _softmax_dim(args, kwargs) if function.kind == "softmax" else None
        if unit_dim is None:
            unit_dim = -1 if self._channels_last or x.dim() < 2 else 1
        return Call(place, function.name, function.kind, unit_dim, x, None, self._cache)

    def _visible(self, x: Tensor) -> bool:
        """Whether a call on `x` belongs to training and its tensor can be looked at.

        Metrics and teachers run without gradients, outside of modules that train; activation
        checkpointing runs without gradients too, but inside of them.
        """
        if type(x) is not Tensor and type(x) is not nn.Parameter:
            return False
        if not (x.is_floating_point() or x.is_complex()) or x.device.type == "meta":
            return False
        if torch._C._functorch.is_functorch_wrapped_tensor(x):
            return False
        inside = bool(self._stack)
        if inside and any(_is_metric(module) for _, module in self._stack):
            return False
        if not torch.is_grad_enabled():
            return inside and self._stack[-1][1].training and not x.is_inference()
        return True

    def _observe(self, call: Call, moment: str) -> None:
        for measure in tuple(self._measures):
            if call.kind not in measure.kinds:
                continue
            with torch.no_grad():
                observe = measure.before if moment == "before" else measure.after
                columns = self._look(measure, observe, call)
            if columns is not None:
                self._sink(measure, call, columns)


def _is_metric(module: nn.Module) -> bool:
    return any(base.__module__.startswith("torchmetrics.") for base in type(module).__mro__)


def _softmax_dim(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    return dim if isinstance(dim, int) else None
