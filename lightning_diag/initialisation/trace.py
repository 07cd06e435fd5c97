"""Follows the signal through one forward pass: what becomes of the output of each layer.

A `TorchFunctionMode` sees every function of torch, whether a module calls it or the user's code.
Each tensor is known by the layers whose output it still is, but for scaling, reshaping, adding and
picking. The next thing that happens to it is what follows those layers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from lightning_diag.initialisation import flow as flows_of
from lightning_diag.initialisation import words
from lightning_diag.initialisation.calls import (
    Call,
    LayerCall,
    activation,
    consumer,
    layer_call,
    name_of,
    tensors_in,
)
from lightning_diag.initialisation.flow import Flow, Use, consumed, meet, merged

_PARAMETRIZED = re.compile(r"(^|\.)parametrizations\.([^.]+)\..*$")


class Trace(TorchFunctionMode):
    """Watches a forward pass of a module; enter it, run the module, and leave it.

    Subclasses may look at what layers put out, or replace it.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> with Trace(net) as trace:
        ...     trace.end(net(net[0].weight.new_ones(1, 2)))
        >>> [(use.weight, use.follower) for use in trace.uses]
        [('0.weight', 'relu'), ('2.weight', 'output')]
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.uses: list[Use] = []
        self.residual_adds = 0
        """Most residual additions that a signal passes without a norm in its way."""
        self._flows: Any = WeakTensorKeyDictionary()
        self._bits = 0
        # Buffers are no signal either: constants, and what parametrizations keep.
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            self._flows[tensor] = Flow(origin=(shown_name(name),))

    def end(self, output: Any) -> None:
        """Take note of what the module returned."""
        for tensor in tensors_in(output):
            flow = self._flows.get(tensor, Flow())
            meet((*flow.pending, *flow.statistics), "output")

    def layer(
        self, use: Use, x: Tensor, weight: Tensor, output: Tensor, again: Callable[[], Tensor]
    ) -> Tensor:
        """Look at the output of a layer, and return it or what takes its place.

        Args:
            use: Which layer.
            x: Its input.
            weight: Its weight.
            output: Its output.
            again: Computes the output once more.
        """
        return output

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        operands = [x for x in tensors_in((args, kwargs)) if _is_signal(x)]
        # Before the call, since functions that work in place give the same tensor another flow.
        flows = [self._flow(x) for x in operands]
        call = Call(name_of(func), args, kwargs, operands, flows)
        output = func(*args, **kwargs)
        if call.name == "setitem":
            self._flows[args[0]] = merged(flows)
        if not flows or call.name in words.NEW:
            return output
        if not any(_is_signal(x) for x in tensors_in(output)):
            return output
        layer = layer_call(call)
        if layer is None:
            flow = self._follow(call)
        else:
            output, flow = self._layer(call, layer, output, partial(func, *args, **kwargs))
        for x in tensors_in(output):
            if _is_signal(x):
                self._flows[x] = flow
        return output

    def _flow(self, x: Tensor) -> Flow:
        flow: Flow | None = self._flows.get(x)
        if flow is None:
            flow = Flow(sources=self._bit())
            self._flows[x] = flow
        return flow

    def _bit(self) -> int:
        self._bits += 1
        return 1 << self._bits

    def _follow(self, call: Call) -> Flow:
        """Return what is known of the output of what is no layer."""
        data = call.data
        if not data:
            return flows_of.of_parameters(call.name, call.operands, call.flows)
        both = merged(data)
        function, parameter = activation(call)
        if function:
            meet(both.pending, function, parameter)
            active = tuple((use, function) for use in both.pending) or both.active
            return both.fresh()._replace(active=active)
        if call.name in words.ADDITIONS and len(data) == 2:
            flow = flows_of.added(*data)
            self.residual_adds = max(self.residual_adds, flow.adds)
            return flow
        if call.name in words.PRODUCTS and len(data) == 2:
            return flows_of.multiplied(*data)
        return self._other(call, both)

    def _other(self, call: Call, flow: Flow) -> Flow:
        if call.name in words.NORMS:
            return flows_of.normed(flow)
        if call.name in words.DROPOUTS and call.given(1, "p") != 0:
            flows_of.happened(flow, "dropout")
        if call.name in words.STATISTICS:
            seen = (*flow.pending, *flow.statistics)
            return flow.fresh()._replace(statistics=seen)
        if call.name in words.LINES | words.ADDITIONS | words.PRODUCTS:
            return flow
        consumed(call.data, consumer(call.name))
        return flow.fresh()

    def _layer(
        self, call: Call, layer: LayerCall, output: Any, again: Callable[[], Any]
    ) -> tuple[Any, Flow]:
        """Take note of a layer, and have a subclass look at it."""
        data = call.data
        consumed(data, "layer")
        before, weight = merged(data), call.flows[layer.weight]
        use = Use(
            weight=weight.origin[0],
            function=call.name,
            fans=layer.fans,
            depth=before.depth + 1,
            is_computed=not weight.is_plain,
        )
        self.uses.append(use)
        pairs = zip(call.operands, call.flows, strict=True)
        x = next((x for x, flow in pairs if not flow.origin), None)
        used = call.operands[layer.weight]
        if x is None or _is_wrapped(x):
            pass  # within `torch.vmap` and the like nothing has values of its own
        elif isinstance(output, Tensor):
            output = self.layer(use, x, used, output, again)
        elif isinstance(output, tuple):  # attention, with its weights
            first = self.layer(use, x, used, output[0], lambda: again()[0])
            output = (first, *output[1:])
        sources = before.sources | self._bit()
        flow = before.fresh()._replace(sources=sources, depth=use.depth, pending=(use,))
        return output, flow


def shown_name(name: str) -> str:
    """Return a parameter's name, of a parametrized one that by which it is used.

    Example:
        >>> shown_name("net.0.parametrizations.weight.original1")
        'net.0.weight'
    """
    return _PARAMETRIZED.sub(r"\1\2", name)


def _is_wrapped(x: Tensor) -> bool:
    return torch._C._functorch.is_functorch_wrapped_tensor(x)


def _is_signal(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()
