"""Sees the calls of one forward pass, with inputs before in-place functions overwrite them.

A `TorchFunctionMode` is entered when a watched batch begins and left before backward, so that what
activation checkpointing recomputes is not counted. Which module is running is read off the call
stack of the interpreter. So no hook is attached to anything, at any time: modules pickle and copy
as ever, and compiled ones do not notice (P8, P17, P18).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn, overrides
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointFunction

from lightning_diag.measure.base import Call, CallMeasure, Columns, LossCall
from lightning_diag.measure.moments import MomentsCache
from lightning_diag.probe.functions import UNITS_LAST, Function, lookup
from lightning_diag.probe.losses import loss_call
from lightning_diag.probe.places import is_metric
from lightning_diag.probe.units import UnitDims

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
        modules: Path of each module that may be running, by ``id``.
        measures: What to look at the calls with.
        sink: Takes measure, call and columns.
        look: Runs one observation; returns None and switches the measure off if it raises.
    """

    def __init__(
        self,
        modules: Mapping[int, str],
        measures: Sequence[CallMeasure],
        sink: Sink,
        look: Look,
    ) -> None:
        super().__init__()
        self._modules = modules
        self._measures = measures
        self._all_before = _by_kind(measures, "before")
        self._all_after = _by_kind(measures, "after")
        self._before: Looks = {}
        self._after: Looks = {}
        self._resting: set[str] = set()
        self._sink = sink
        self._look = look
        self._calls: dict[str, int] = {}
        self._cache = MomentsCache()
        self._units = UnitDims()
        self._started = self._entered = False
        self.sites: dict[str, Function] = {}

    def start(self) -> None:
        """Begin a forward pass: names count from 0 again."""
        self.stop()
        self._calls.clear()
        self._units.clear()
        due = {id(measure) for measure in self._measures if measure.is_due()}
        self._before, self._after = _due(self._all_before, due), _due(self._all_after, due)
        if self.sites:  # the first pass takes note of all calls, also of those for later
            known = self._all_before.keys() | self._all_after.keys()
            self._resting = known - self._before.keys() - self._after.keys()
        self._started = True
        self.resume()

    def resume(self) -> None:
        """Go on watching after `pause`."""
        if not self._started or self._entered:
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
        self._started = False

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
            output = func(*args, **kwargs)
            if func in UNITS_LAST:
                self._units.note(output, last=True)
            return output
        if function.kind in self._resting:
            self._note_layout(function, args, kwargs)
            return func(*args, **kwargs)
        call = self._call(function, args, kwargs)
        if call is None:
            return func(*args, **kwargs)
        self._observe(call, self._before)
        call.output = func(*args, **kwargs)
        if isinstance(call.output, Tensor):
            self._observe(call, self._after)
        return call.output

    def _note_layout(
        self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Take note of a layer that nobody looks at in this pass: others look at what follows."""
        x = args[0] if args else kwargs.get("input")
        if function.channels_last is not None and isinstance(x, Tensor) and _trains():
            self._units.note(x, last=function.channels_last)

    def _call(
        self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Call | None:
        x = args[0] if args else kwargs.get(function.given)
        if not isinstance(x, Tensor) or not is_readable(x) or not _trains():
            return None
        if function.kind == "loss":
            return self._named(function, loss_call(function.name, args, kwargs))
        place = self._place(function)
        if place is None:
            return None
        if function.kind == "direction":
            return Call(place, function.name, function.kind, 1, x, None, self._cache)
        self.sites.setdefault(place, function)
        if function.channels_last is not None:
            self._units.note(x, last=function.channels_last)
        unit_dim = _softmax_dim(args, kwargs) if function.kind == "softmax" else None
        if unit_dim is None:
            unit_dim = self._units.of(x)
        return Call(place, function.name, function.kind, unit_dim, x, None, self._cache)

    def _named(self, function: Function, call: LossCall | None) -> LossCall | None:
        """Give a call of a loss function its place; None within a metric."""
        place = None if call is None else self._place(function)
        if call is None or place is None:
            return None
        call.place, call.cache = place, self._cache
        return call

    def _place(self, function: Function) -> str | None:
        """Name the call that is about to be made; None within a metric."""
        module = running_module(self._modules)
        if module is not None and is_metric(module):
            return None
        path = "" if module is None else self._modules[id(module)]
        site = f"{path}/{function.name}" if path else function.name
        index = self._calls.get(site, 0)
        self._calls[site] = index + 1
        return f"{site}#{index}"

    def _observe(self, call: Call, looks: Mapping[str, Sequence[_Look]]) -> None:
        with torch.no_grad():
            for measure, observe in looks.get(call.kind, ()):
                columns = self._look(measure, observe, call)
                if columns is not None:
                    self._sink(measure, call, columns)


_Look = tuple[CallMeasure, Callable[[Call], Columns | None]]


Looks = dict[str, list[_Look]]


def _due(looks: Looks, due: set[int]) -> Looks:
    """Return the looks of the measures whose turn it is."""
    chosen = {kind: [look for look in own if id(look[0]) in due] for kind, own in looks.items()}
    return {kind: own for kind, own in chosen.items() if own}


def _by_kind(measures: Sequence[CallMeasure], moment: str) -> Looks:
    """Return what looks at each kind of call at this moment: only who has something to do then."""
    looks: Looks = {}
    for measure in measures:
        if getattr(type(measure), moment) is not getattr(CallMeasure, moment):
            for kind in measure.kinds:
                looks.setdefault(kind, []).append((measure, getattr(measure, moment)))
    return looks


_RUN_MODULE = nn.Module._call_impl.__code__
"""The code that every call of a module passes through, compiled or not."""


def running_module(modules: Mapping[int, str]) -> nn.Module | None:
    """Return the innermost of `modules` whose call is under way, None outside of all.

    Args:
        modules: Keyed by ``id``.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _RUN_MODULE:
            module: nn.Module = frame.f_locals["self"]
            if id(module) in modules or is_metric(module):
                return module
        frame = frame.f_back  # type: ignore[assignment]
    return None


def is_readable(x: Tensor, *, inference: bool = False) -> bool:
    """Whether statistics of `x` can be taken: plain, dense values, that stand somewhere.

    Args:
        x: Any tensor.
        inference: Whether it may have been made in inference mode, as validation's are.
    """
    if type(x) is not Tensor and type(x) is not nn.Parameter:
        return False
    if not (x.is_floating_point() or x.is_complex()) or x.device.type == "meta":
        return False
    if x.layout is not torch.strided or x.is_nested or (x.is_inference() and not inference):
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(x)


_CHECKPOINT = CheckpointFunction.forward.__code__
"""The code that reentrant activation checkpointing runs modules and functions in."""


def _trains() -> bool:
    """Whether the call under way belongs to training.

    Metrics and teachers run without gradients, the latter often in training mode; reentrant
    activation checkpointing runs without gradients too, but is told by its code.
    """
    if torch.is_grad_enabled():
        return True
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _CHECKPOINT:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _softmax_dim(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    return dim if isinstance(dim, int) else None
