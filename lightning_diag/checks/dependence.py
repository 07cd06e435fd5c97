"""Which samples a prediction depends on.

Gradients go back from one of them, and are looked at on the way, where modules hand tensors on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_diag.probe.functions import FUNCTIONS, OPERANDS, argument

ROUNDING = 1e-5
"""Share of the largest gradient that may be rounding (our choice: where nothing is handed on, it is
exactly 0)."""


def reached(gradient: Tensor, dim: int, rounding: float = ROUNDING) -> list[int]:
    """Return the indices of a dimension that a gradient reaches; NaN counts as not reached.

    Example:
        >>> reached(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), 0)
        [1]
    """
    size = gradient.detach().abs().float()
    if not size.numel():
        return []
    rows = size.movedim(dim, 0).flatten(1).amax(1) if size.dim() > 1 else size
    if not bool(torch.isfinite(rows).all()):
        return reached(size.nan_to_num(0.0, 0.0, 0.0), dim, rounding)
    found: list[int] = (rows > rounding * rows.max()).nonzero()[:, 0].tolist()
    return found


def _table(gradient: Tensor) -> Tensor:
    """Return the largest gradient for each pair of indices of the first two dimensions."""
    size = gradient.detach()
    if size.dim() < 3:
        return size
    if not bool(torch.isfinite(size).all()):
        size = size.nan_to_num(0.0, 0.0, 0.0)
    found: Tensor = torch.linalg.vector_norm(size.flatten(2), torch.inf, dim=2)
    return found


@dataclass
class Passing:
    """A tensor that a module was given, or returned."""

    path: str
    kind: str
    """``in`` or ``out``."""
    module: nn.Module
    shape: tuple[int, ...]
    is_entry: bool
    """Whether nothing before it has a gradient: what enters the network, words' embeddings."""
    indices: dict[int, list[int]] = field(default_factory=dict)
    """Dimension to those of its indices that the newest gradient reached."""


@dataclass
class Prediction:
    """What a loss function was given, with its graph."""

    place: str
    tensor: Tensor


@dataclass
class _Scope:
    """What is looked at on the way back. Hooks of a graph must not hold who holds the graph."""

    samples: int = 1
    entries_alone: bool = False


class Dependence(TorchFunctionMode):
    """Runs code and keeps what modules hand on, so that gradients can be followed back.

    Floats that enter a module without a gradient get one, on a copy. Backward passes of the code
    itself do not run, since they would use up the graph.

    Args:
        modules: Path of each module, by ``id``.
        root: The module that holds them.
    """

    def __init__(self, root: nn.Module, modules: Mapping[int, str]) -> None:
        super().__init__()
        self.passings: list[Passing] = []
        self.outputs: list[Prediction] = []
        """What modules returned that no other module called."""
        self.predictions: list[Prediction] = []
        self.embedded: list[tuple[str, Tensor]] = []
        """What embeddings returned."""
        self._root, self._modules = root, modules
        self._depth = 0
        self._counts: dict[str, int] = {}
        self._scope = _Scope()
        self._entries: list[Tensor] = []
        """Where gradients end."""
        self._entered: set[int] = set()
        self._held: list[Tensor] = []  # so that no other tensor gets their place

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.backward, torch.autograd.backward):
            return None
        function = FUNCTIONS.get(func)
        if function is not None and function.kind == "loss":
            self._take(function.name, args, kwargs)
        return func(*args, **kwargs)

    def _take(self, function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = OPERANDS.get(function, ("input",))
        given = [argument(function, name, args, kwargs) for name in names]
        for x in given:
            if isinstance(x, Tensor) and x.requires_grad and x.layout is torch.strided:
                number = self._counts.get(function, 0)
                self._counts[function] = number + 1
                self.predictions.append(Prediction(f"{function}#{number}", x))
                return

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep what is handed on while this is entered."""
        with ExitStack() as hooks:
            for module in self._root.modules():
                if id(module) in self._modules and not isinstance(module, torch.jit.ScriptModule):
                    before = module.register_forward_pre_hook(self._enters, with_kwargs=True)
                    after = module.register_forward_hook(self._leaves, always_call=True)
                    hooks.callback(before.remove)
                    hooks.callback(after.remove)
            with self:
                yield

    def _enters(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        self._depth += 1
        known: dict[int, Tensor] = {}  # what is one tensor stays one

        def change(x: Tensor) -> Tensor:
            if id(x) not in known:
                known[id(x)] = self._tracked(x)
            return known[id(x)]

        args, kwargs = mapped(args, change), mapped(kwargs, change)
        for x in [*_floats(args), *_floats(kwargs)]:
            self._keep(module, "in", x)
        return args, kwargs

    def _tracked(self, x: Tensor) -> Tensor:
        """Return what gradients can be followed to for this use of a tensor alone."""
        is_number = x.is_floating_point() and type(x) is Tensor and x.layout is torch.strided
        if not is_number or not torch.is_grad_enabled():
            return x
        if x.requires_grad:
            return x.view_as(x)
        leaf = x.detach().clone().requires_grad_()
        self._entries.append(leaf)
        entry = leaf.mul(1)  # no leaf: it may be changed in place
        self._entered.add(id(entry))
        self._held.append(entry)
        return entry

    def _leaves(self, module: nn.Module, _: Any, output: Any) -> None:
        self._depth -= 1
        is_words = isinstance(module, nn.Embedding)
        for x in _floats(output):
            if is_words:
                self.embedded.append((self._modules[id(module)], x.detach()))
            if is_words and x.requires_grad:
                self._entries.append(x)
                self._entered.add(id(x))
                self._held.append(x)
            self._keep(module, "out", x)
            if not self._depth and x.requires_grad:
                path = self._modules[id(module)]
                self.outputs.append(Prediction(path or type(module).__name__, x))

    def _keep(self, module: nn.Module, kind: str, x: Tensor) -> None:
        if not x.requires_grad:
            return
        is_entry = id(x) in self._entered
        passing = Passing(self._modules[id(module)], kind, module, tuple(x.shape), is_entry)
        self.passings.append(passing)
        scope = self._scope

        def look(gradient: Tensor) -> None:
            sizes = list(enumerate(gradient.shape[:2]))
            dims = [d for d, size in sizes if size and size % scope.samples == 0]
            if dims and (is_entry or not scope.entries_alone):
                table = _table(gradient)
                passing.indices = {dim: reached(table, dim) for dim in dims}

        x.register_hook(look)

    def follow(self, part: Tensor, samples: int, *, entries_alone: bool = False) -> list[Passing]:
        """Go back from a part of a prediction; return what was passed, in the order of calls.

        Args:
            part: With its graph, which stays.
            samples: First and second dimensions of as many, or a multiple, are looked at.
            entries_alone: Whether to look only where gradients end.
        """
        self._scope.samples = samples
        self._scope.entries_alone = entries_alone and bool(self._entries)
        for passing in self.passings:
            passing.indices = {}
        generator = torch.Generator().manual_seed(0)
        weights = (0.5 + torch.rand(part.shape, generator=generator)).to(part)
        total = (part * weights).sum()
        if self._entries:
            torch.autograd.grad(total, self._entries, retain_graph=True, allow_unused=True)
        else:
            total.backward(retain_graph=True)
        return [passing for passing in self.passings if passing.indices]


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return containers with other tensors in them."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(each, change) for each in value))
    if type(value) in (tuple, list):
        return type(value)(mapped(each, change) for each in value)
    if type(value) is dict:
        return {key: mapped(each, change) for key, each in value.items()}
    return value


def _floats(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        is_plain = value.is_floating_point() and value.layout is torch.strided
        return [value] if is_plain and value.dim() else []
    members = value.values() if isinstance(value, Mapping) else value
    if not isinstance(value, (tuple, list, Mapping)):
        return []
    return [x for each in members for x in _floats(each)]
