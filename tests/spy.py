"""A measure that only notes which calls it sees, and what it takes to show it some."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as hooks

from lightning_diag.measure.base import Call, CallMeasure, Columns, Numbers
from lightning_diag.probe.places import trained_modules
from lightning_diag.probe.watch import CallWatch, _get_current_function_mode_stack

KINDS = frozenset({"relu", "leaky", "sigmoid", "tanh", "hard", "softmax", "smooth", "layer"})


class Spy(CallMeasure):
    """Notes the place of each call, before and after it, and its input."""

    name: ClassVar[str] = "spy"
    outputs: ClassVar[dict[str, str]] = {}

    def __init__(self, *kinds: str) -> None:
        self.kinds = frozenset(kinds) or KINDS - {"layer"}  # type: ignore[misc]
        self.before_calls: list[str] = []
        self.after_calls: list[str] = []
        self.inputs: dict[str, Tensor] = {}

    def before(self, call: Call) -> Columns | None:
        self.before_calls.append(call.place)
        self.inputs[call.place] = call.input.detach().clone()
        return None

    def after(self, call: Call) -> Columns | None:
        self.after_calls.append(call.place)
        return None

    def summarise(self, places: Any, sums: Tensor, maxima: Tensor) -> Numbers:
        return {}


def watch_of(root: nn.Module, *measures: CallMeasure) -> CallWatch:
    return CallWatch(
        trained_modules(root), measures, lambda *_: None, lambda _, observe, call: observe(call)
    )


@contextmanager
def watching(root: nn.Module, spy: CallMeasure) -> Iterator[CallWatch]:
    watch = watch_of(root, spy)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()


def places(root: nn.Module, forward: Callable[[], Any], *kinds: str) -> list[str]:
    """Return the places of all calls; each must have been seen before and after, once."""
    spy = Spy(*kinds)
    with watching(root, spy):
        forward()
    assert sorted(spy.before_calls) == sorted(spy.after_calls)
    assert len(set(spy.after_calls)) == len(spy.after_calls)
    return spy.after_calls


class Attached(NamedTuple):
    before: int
    after: int
    always: int
    modes: int


def attached() -> Attached:
    return Attached(
        len(hooks._global_forward_pre_hooks),
        len(hooks._global_forward_hooks),
        len(hooks._global_forward_hooks_always_called),
        len(_get_current_function_mode_stack()),
    )


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.act(self.lin(x)))


class Net(nn.Module):
    """Modules, functions, methods and in-place calls; one ReLU used twice."""

    def __init__(self) -> None:
        super().__init__()
        first = Block()
        self.body = nn.Sequential(first, Block())
        self.first = first
        self.shared = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(self.body(x) + 1)
        x = functional.relu(x) + self.shared(x - 1)
        return torch.as_tensor((torch.relu(x) + 1).sigmoid_())
