"""What a model runs before a frontier, and a frontier that can be cut at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_diag.transfer.store import CacheRefusedError
from lightning_diag.transfer.trees import leaves

_BATCH_NORMS = (nn.modules.batchnorm._NormBase,)
_DROPOUTS = (nn.modules.dropout._DropoutNd,)


@dataclass
class Call:
    """One call of a module."""

    name: str
    entered: int
    """Modules that were entered before this one was left, itself among them."""
    used: int
    """Tensors that had been used when it was left."""
    output: dict[str, tuple[torch.Size, torch.dtype]]
    """Shapes, by path."""


@dataclass
class Trace:
    """What one forward pass ran, in order."""

    entered: list[str] = field(default_factory=list)
    used: list[Tensor] = field(default_factory=list)
    """Parameters and buffers that functions were given."""
    calls: list[Call] = field(default_factory=list)
    """In the order in which they ended."""


@dataclass(frozen=True)
class Cut:
    """A place behind which features are cached."""

    within: str
    """Module whose call is given the batch's input."""
    frontier: str
    """Module whose output is cached."""
    entered: tuple[str, ...]
    """Modules that were entered before that was there, it and those around it included."""
    extra: tuple[Tensor, ...]
    """Weights and buffers of other modules that were used."""
    shapes: Mapping[str, tuple[tuple[torch.Size, torch.dtype], ...]]
    """What each module that is skipped puts out, by call; for modules that put out a tensor."""

    def modules(self, model: nn.Module) -> dict[str, nn.Module]:
        """Return the modules that were entered, by name."""
        return {name: model.get_submodule(name) for name in self.entered}

    def tensors(self, model: nn.Module) -> list[Tensor]:
        """Return all weights and buffers that the features depend on."""
        own = [
            tensor
            for module in self.modules(model).values()
            for tensors in (module._parameters, module._buffers)
            for tensor in tensors.values()
            if tensor is not None
        ]
        return [*own, *self.extra]

    def around(self, name: str) -> bool:
        """Whether a module contains the frontier."""
        return name != self.frontier and (not name or self.frontier.startswith(f"{name}."))

    def why_not(self, model: nn.Module) -> str | None:
        """Say why the part before the frontier is not frozen, None if it is."""
        names = {id(value): name for name, value in model.named_parameters()}
        for tensor in self.tensors(model):
            if tensor.requires_grad:
                name = names.get(id(tensor), "a tensor")
                return f"{name!r} is trainable: freeze it, or choose a frontier before it"
        for name, module in self.modules(model).items():
            if not module.training:
                continue
            kind = type(module).__name__
            if isinstance(module, _BATCH_NORMS):
                return (
                    f"{name!r} ({kind}) is in train mode, so that it mixes the samples of a batch "
                    "and changes its statistics: put it into eval mode"
                )
            if isinstance(module, _DROPOUTS) and module.p > 0:
                return (
                    f"{name!r} ({kind}) is in train mode, so that it is random: put it into eval "
                    "mode"
                )
        return None


class _Watch(TorchFunctionMode):
    def __init__(self, trace: Trace, owned: dict[int, Tensor]) -> None:
        super().__init__()
        self.trace, self.owned = trace, owned

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        for value in leaves([args, kwargs or {}]).values():
            if id(value) in self.owned:
                self.trace.used.append(value)
        return function(*args, **(kwargs or {}))


def traced(model: nn.Module, within: str, args: list[Any], kwargs: Mapping[str, Any]) -> Trace:
    """Run a module once without gradients and note what it runs."""
    root = model.get_submodule(within)
    names = {
        module: f"{within}.{name}".strip(".") if name else within
        for name, module in root.named_modules()
    }
    trace, handles = Trace(), []

    def enter(module: nn.Module, _: Any) -> None:
        trace.entered.append(names[module])

    def leave(module: nn.Module, _: Any, output: Any) -> None:
        shapes = {
            path: (value.shape, value.dtype)
            for path, value in leaves(output).items()
            if isinstance(value, Tensor)
        }
        call = Call(names[module], len(trace.entered), len(trace.used), shapes)
        trace.calls.append(call)

    owned = {id(value): value for value in (*model.parameters(), *model.buffers())}
    try:
        for module in names:
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave))
        with torch.no_grad(), _Watch(trace, owned):
            root(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return trace


def cuts(model: nn.Module, trace: Trace, within: str, bound: str | None) -> list[Cut]:
    """Return the places at which a forward pass could be cut, the deepest first.

    Args:
        bound: Module that is the deepest to come in question; None for no bound.

    Raises:
        CacheRefusedError: If `bound` is not run, or more than once.
    """
    count: dict[str, int] = {}
    for call in trace.calls:
        count[call.name] = count.get(call.name, 0) + 1
    if bound is not None and count.get(bound, 0) != 1:
        times = count.get(bound, 0)
        raise CacheRefusedError(
            f"`frontier` must be a module that runs once when {within or 'the model'!r} is called, "
            f"and {bound!r} runs {times} times: name another one."
        )
    found, shapes = [], {}  # type: ignore[var-annotated]
    for call in trace.calls:
        if count[call.name] == 1:
            entered = tuple(dict.fromkeys(trace.entered[: call.entered]))
            extra = {id(tensor): tensor for tensor in trace.used[: call.used]}
            cut = Cut(
                within, call.name, entered, (), {name: tuple(s) for name, s in shapes.items()}
            )
            own = {id(tensor) for tensor in cut.tensors(model)}
            others = tuple(tensor for key, tensor in extra.items() if key not in own)
            found.append(Cut(within, call.name, entered, others, cut.shapes))
        if list(call.output) == [""]:
            shapes.setdefault(call.name, []).append(call.output[""])
        if call.name == bound:
            break
    return found[::-1]


def first_reason(model: nn.Module, candidates: list[Cut]) -> str:
    """Say why the deepest of some places is none."""
    for cut in candidates:
        reason = cut.why_not(model)
        if reason:
            return reason
    return "no part of it can be cached"


def state_of(model: nn.Module, cut: Cut) -> Callable[[], bool]:
    """Return a quick check whether weights, modes and what is trainable are as they are now."""
    tensors = cut.tensors(model)
    modules = list(cut.modules(model).values())

    def now() -> list[Any]:
        return [
            *((tensor._version, tensor.data_ptr(), tensor.requires_grad) for tensor in tensors),
            *(module.training for module in modules),
        ]

    before = now()
    return lambda: now() == before
