"""What autograd is not told: detached values, and the choices of units and maxima.

The gradient of a loss is that of a function in which whatever was detached stands still. So a
difference compares with it only if detached values stay what they were: they are noted in one run
of a function, and given again in those that follow.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class _Entry(NamedTuple):
    kind: str
    """``cut``, ``alias``, ``changed`` or ``choice``."""
    value: Any
    source: Tensor | None = None
    """What an alias was when it was made, to see whether it was changed since."""
    version: int = 0


class Cuts(TorchFunctionMode):
    """Notes cuts and choices when it is first entered, and gives the same values again afterwards.

    Functions of one's own with a backward are what is to be judged: within their forward, nothing
    is given again.

    Example:
        >>> x, cuts = torch.tensor(2.0, requires_grad=True), Cuts()
        >>> with cuts:
        ...     _ = x * x.detach()
        >>> x.data.fill_(3.0)
        tensor(3.)
        >>> with cuts:
        ...     (x * x.detach()).item()
        6.0
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_same = True
        """Whether the last run made the choices of the first."""
        self._entries: list[_Entry] | None = None
        self._noted: list[_Entry] = []
        self._at = 0

    @property
    def writes(self) -> bool:
        """Whether a detached tensor that shares its memory was written to."""
        return any(entry.kind == "let" for entry in self._entries or ())

    def __enter__(self) -> Any:
        self.is_same, self._at = True, 0
        if self._entries is None:
            self._noted = []
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        if self._entries is None and error[0] is None:
            self._entries = [_settled(entry) for entry in self._noted]
        elif self._entries is not None and self._at != len(self._entries):
            self.is_same = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.register_hook:  # what it returns would be a gradient made by hand
            return func(args[0], _heard(args[1]))
        given = [t for t in _flat((args, kwargs)) if t.requires_grad]
        sign = args[0] > 0 if given and func in _SIGNED else None
        output = func(*args, **kwargs)
        if not given or func in _PASSED:
            return output
        if sign is not None:
            self._choice(sign)
        elif func in _BOUNDED and isinstance(output, Tensor):
            self._choice(output.detach() == args[0].detach())
        elif func in _POOLS:
            self._choice(_pooled(func, args, kwargs))
        return self._looked_at(output, args)

    def _looked_at(self, output: Any, args: tuple[Any, ...]) -> Any:
        """Note what a function returned, or return what it returned the first time."""
        if isinstance(output, Tensor):
            return self._tensor(output, args)
        if isinstance(output, (float, bool)):
            return self._again("cut", output) if not _is_in_function() else output
        if isinstance(output, tuple) and any(isinstance(each, Tensor) for each in output):
            members = [self._tensor(e, args) if isinstance(e, Tensor) else e for e in output]
            if all(one is other for one, other in zip(members, output, strict=True)):
                return output
            make = getattr(type(output), "_make", None)
            return tuple(members) if make is None else make(members)
        return output

    def _tensor(self, output: Tensor, args: tuple[Any, ...]) -> Tensor:
        if output.requires_grad:
            return output
        if not output.is_floating_point():
            if not torch.is_grad_enabled() and _is_in_function():
                return output
            self._choice(output)
            return output
        if _is_in_function():
            return output
        if any(output is each for each in args):
            value = self._again("changed", output)
            if value is not output:
                with torch._C.DisableTorchFunction():
                    output.copy_(value)
            return output
        shares = any(_shares(output, each) for each in args)
        found: Tensor = self._again("alias" if shares else "cut", output)
        return found

    def _choice(self, made: Tensor) -> None:
        self._again("choice", made)

    def _again(self, kind: str, value: Any) -> Any:
        """Note a value, or return what stands in its place; compare it if it is a choice."""
        if self._entries is None:
            self._noted.append(_entry(kind, value))
            return value
        entry = self._entries[self._at] if self._at < len(self._entries) else None
        self._at += 1
        if entry is None or entry.kind not in (kind, "let") or not _alike(entry.value, value):
            self.is_same = False
            return value
        if kind == "choice":
            self.is_same &= torch.equal(entry.value, value)
            return value
        if entry.kind == "let":
            return value
        return entry.value.clone() if isinstance(entry.value, Tensor) else entry.value


def _entry(kind: str, value: Any) -> _Entry:
    if not isinstance(value, Tensor):
        return _Entry(kind, value)
    with torch._C.DisableTorchFunction():
        source = value if kind == "alias" else None
        return _Entry(kind, value.detach().clone(), source, value._version)


def _settled(entry: _Entry) -> _Entry:
    """Return an entry without what it was made of; an alias that was written to is let be."""
    if entry.source is None:
        return entry
    was_written = entry.source._version != entry.version
    return entry._replace(source=None, kind="let" if was_written else entry.kind)


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype
    return type(one) is type(other)


def _shares(one: Tensor, other: Any) -> bool:
    if not isinstance(other, Tensor) or one.layout is not torch.strided:
        return False
    if other.layout is not torch.strided:
        return False
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _flat(values: Any) -> Iterator[Tensor]:
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple, dict)):
            yield from _flat(value)


def _heard(hook: Callable[..., Any]) -> Callable[..., None]:
    def listen(*args: Any) -> None:
        hook(*args)

    return listen


_APPLY = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]


def _is_in_function() -> bool:
    """Whether this is the forward of a function with a backward of its own."""
    if torch.is_grad_enabled():
        return False
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code is _APPLY:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _pooled(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return which inputs a pool has chosen."""
    options = {k: v.detach() if isinstance(v, Tensor) else v for k, v in kwargs.items()
               if k != "return_indices"}  # fmt: skip
    given = [v.detach() if isinstance(v, Tensor) else v for v in args[:6]]
    with torch.no_grad():
        chosen: Tensor = _POOLS[func](*given, **options)[1]
    return chosen


def _named(*names: str) -> frozenset[Any]:
    owners = (functional, torch, Tensor)
    found = {getattr(owner, f"{name}{end}", None) for owner in owners for name in names
             for end in ("", "_")}  # fmt: skip
    return frozenset(found - {None})


_SIGNED = _named("relu", "leaky_relu", "prelu", "rrelu", "elu", "selu", "abs")
"""What bends where its input is 0."""
_BOUNDED = _named("clamp", "clip", "clamp_min", "clamp_max", "hardtanh", "relu6", "threshold",
                  "maximum", "minimum") - {torch.clamp_, Tensor.clamp_}  # fmt: skip
"""What bends where it begins to be another number than its input."""
_POOLS: dict[Any, Any] = {
    getattr(functional, name): getattr(functional, f"{name}_with_indices")
    for name in ("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d",
                 "adaptive_max_pool2d", "adaptive_max_pool3d")
} | {torch.max_pool1d: functional.max_pool1d_with_indices,
     torch.max_pool2d: functional.max_pool2d_with_indices,
     torch.max_pool3d: functional.max_pool3d_with_indices}  # fmt: skip
_GRAD: Any = Tensor.grad
_PASSED: frozenset[Any] = frozenset({_GRAD.__get__, Tensor.backward})
"""What has nothing to do with a value of the loss."""
