"""Functions with a backward that somebody wrote: which ones made a loss, and whether they agree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from lightning_diag.checks.differences import Coordinate, Value, differences
from lightning_diag.checks.same_draws import SameDraws

CALLS = 2
"""Calls of one function that are looked at (our choice): it is the same code each time."""
COORDINATES = 12
"""Elements of each of its inputs (our choice): each costs two calls of the function alone."""

Kind = Literal["right", "wrong", "estimator", "identity", "passing", "unknown"]
"""``estimator``: the forward is a step function, and the backward is not zero, on purpose;
``identity``: the forward changes nothing, so that the backward is what it is there for;
``passing``: gradients pass where the output stands still, as where a clamp is passed straight."""
_ORDER: tuple[Kind, ...] = ("identity", "estimator", "wrong", "passing", "right", "unknown")
"""Which kind a function is whose calls are of several."""


@dataclass(frozen=True)
class Written:
    """A class of `torch.autograd.Function`, or of C++, in the graph of a loss."""

    name: str
    cls: Any
    """None for those of C++."""
    reaches: frozenset[int]
    """``id`` of the leaves whose gradients go through it."""


@dataclass(frozen=True)
class Judged:
    """What differences say of the backward of a function, called alone."""

    kind: Kind
    coordinates: tuple[tuple[int, Coordinate], ...] = ()
    """Position of the input, and one of its elements."""

    @property
    def wrong(self) -> list[tuple[int, Coordinate]]:
        """Those that are wrong, the largest error first."""
        wrong = [each for each in self.coordinates if each[1].verdict == "wrong"]
        return sorted(wrong, key=lambda each: -each[1].error)

    @property
    def factor(self) -> float | None:
        """What gradients are multiplied by, where that is the same for all of them."""
        ratios = [c.analytic / c.numeric for _, c in self.wrong if c.numeric]
        middle = median(ratios) if len(ratios) > 1 else 0.0
        same = all(abs(ratio - middle) <= 1e-3 * abs(middle) for ratio in ratios)
        return middle if middle and same else None


def written_functions(loss: Tensor) -> list[Written]:
    """Return the functions with a backward of their own in the graph of a loss, but torch's.

    Example:
        >>> written_functions(torch.ones(1, requires_grad=True).exp().sum())
        []
    """
    nodes: dict[Any, list[Any]] = {}
    for node in _graph([loss.grad_fn]):
        if isinstance(node, BackwardCFunction):
            cls = getattr(node, "_forward_cls", None)
            if cls is not None and not cls.__module__.startswith("torch."):
                nodes.setdefault(cls, []).append(node)
        elif type(node).__name__ == "CppFunction":
            nodes.setdefault(node.name(), []).append(node)
    return [
        Written(
            name=key if isinstance(key, str) else key.__name__,
            cls=None if isinstance(key, str) else key,
            reaches=frozenset(
                id(node.variable) for node in _graph(members) if hasattr(node, "variable")
            ),
        )
        for key, members in nodes.items()
    ]


def _graph(nodes: Iterable[Any]) -> Iterator[Any]:
    waiting = [node for node in nodes if node is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        yield node
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)


@contextmanager
def arguments_of(classes: Iterable[Any]) -> Iterator[Mapping[Any, list[tuple[Any, ...]]]]:
    """Note what functions are called with while it is entered, the first few times."""
    # All of them first: one may inherit another's.
    forwards = {cls: cls.forward for cls in classes}
    calls: dict[Any, list[tuple[Any, ...]]] = {cls: [] for cls in forwards}
    with ExitStack() as undone:
        for cls, forward in forwards.items():
            undone.enter_context(_noting(cls, forward, calls[cls]))
        yield calls


@contextmanager
def _noting(cls: Any, forward: Any, calls: list[tuple[Any, ...]]) -> Iterator[None]:
    own = vars(cls).get("forward")

    def noted(*args: Any) -> Any:
        given = args[1:] if args and isinstance(args[0], BackwardCFunction) else args
        if len(calls) < CALLS:
            calls.append(tuple(map(_copied, given)))
        return forward(*args)

    cls.forward = staticmethod(noted)
    try:
        yield
    finally:
        if own is None:
            del cls.forward
        else:
            cls.forward = own


def _copied(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.detach().clone().requires_grad_(value.requires_grad)


def judged(cls: Any, calls: Iterable[tuple[Any, ...]], *, wrong: float, kink: float) -> Judged:
    """Compare the backward of a function with differences of its forward, called alone.

    The output is weighted at random, so that its parts cannot make up for each other.

    Args:
        cls: The class of `torch.autograd.Function`.
        calls: What it was called with; floating tensors in float64.
        wrong: Relative error from which on a gradient is wrong.
        kink: Relative error that is right.

    Example:
        >>> class Square(torch.autograd.Function):
        ...     @staticmethod
        ...     def forward(ctx, x):
        ...         ctx.save_for_backward(x)
        ...         return x * x
        ...     @staticmethod
        ...     def backward(ctx, gradient):
        ...         return ctx.saved_tensors[0] * gradient
        >>> x = torch.full((3,), 2.0, dtype=torch.float64, requires_grad=True)
        >>> found = judged(Square, [(x,)], wrong=1e-2, kink=1e-4)
        >>> found.kind, round(found.factor, 3)
        ('wrong', 0.5)
    """
    found: list[tuple[int, Coordinate]] = []
    kinds: set[Kind] = {"unknown"}
    for args in calls:
        try:
            kind, coordinates = _judged_call(_Call(cls, args), wrong, kink)
        except Exception:  # noqa: BLE001  # a function may not stand being called alone
            kind, coordinates = "unknown", []
        kinds.add(kind)
        found += coordinates
    return Judged(min(kinds, key=_ORDER.index), tuple(found))


def _judged_call(
    call: _Call, wrong: float, kink: float
) -> tuple[Kind, list[tuple[int, Coordinate]]]:
    coordinates = call.compared(wrong, kink)
    kind = _kind(coordinates)
    is_meant = kind not in ("right", "unknown") and call.is_identity()
    return "identity" if is_meant else kind, coordinates


class _Call:
    """One call of a function, to be made again."""

    def __init__(self, cls: Any, args: tuple[Any, ...]) -> None:
        self._cls, self._args, self._draws = cls, args, SameDraws()
        self._weights: list[Tensor] = []
        self._leaves = {
            str(i): each
            for i, each in enumerate(args)
            if isinstance(each, Tensor) and each.requires_grad and each.is_floating_point()
        }

    @torch.enable_grad()
    def _outputs(self) -> list[Tensor]:
        self._draws.again()
        # Functions may write into what they get.
        given = [each.clone() if isinstance(each, Tensor) else each for each in self._args]
        made = self._cls.apply(*given)
        made = [made] if isinstance(made, Tensor) else list(made)
        return [each for each in made if isinstance(each, Tensor) and each.requires_grad]

    @torch.enable_grad()
    def _total(self) -> Tensor:
        made = self._outputs()
        if not self._weights:
            generator = torch.Generator().manual_seed(1)
            drawn = [torch.rand(each.shape, generator=generator) for each in made]
            self._weights = [w.to(each) + 0.5 for w, each in zip(drawn, made, strict=True)]
        pairs = zip(self._weights, made, strict=True)
        return torch.stack([(w * each).sum() for w, each in pairs]).sum()

    def compared(self, wrong: float, kink: float) -> list[tuple[int, Coordinate]]:
        """Compare elements of each input."""
        leaves = list(self._leaves.values())
        found = torch.autograd.grad(self._total(), leaves, allow_unused=True)
        pairs: Any = zip(self._leaves, found, strict=True)  # None where there is no gradient
        gradients = {
            name: (g.to_dense() if g.is_sparse else g).detach()
            for name, g in pairs
            if g is not None
        }
        known = {name: self._leaves[name] for name in gradients}
        each = differences(
            lambda: Value(float(self._total().detach())), known, gradients,
            coordinates=COORDINATES, wrong=wrong, kink=kink,
        )  # fmt: skip
        return [(int(name), coordinate) for name, coordinate in each]

    def is_identity(self) -> bool:
        """Return whether an output is an input."""
        outputs = self._outputs()
        return any(_is_same(one, other) for one in outputs for other in self._leaves.values())


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.numel() == other.numel() and torch.equal(one.reshape(-1), other.reshape(-1))


def _kind(coordinates: list[tuple[int, Coordinate]]) -> Kind:
    wrong = [each for each in coordinates if each[1].verdict == "wrong"]
    if not wrong:
        seen = any(c.verdict in ("right", "near") for _, c in coordinates)
        return "right" if seen else "unknown"
    for place in {place for place, _ in wrong}:
        if all(each.is_flat for p, each in coordinates if p == place):
            return "estimator"
    return "passing" if all(each.is_flat for _, each in wrong) else "wrong"
