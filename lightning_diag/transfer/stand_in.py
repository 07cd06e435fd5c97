"""What stands in a batch for the input that cached features have made unnecessary.

It has the input's shape and type. Whoever computes with it outside of the frozen part gets the real
input, which is then loaded: so a step that uses its input twice is right, if slower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

from lightning_diag.transfer.store import CacheRefusedError

_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor")
_OTHER = ("neg", "pos", "abs", "invert", "getitem", "eq", "ne", "lt", "le", "gt", "ge")


class StandIn:
    """Takes a tensor's place; subclasses say what computing with it gives."""

    _like: tuple[torch.Size, torch.dtype]

    @property
    def meta(self) -> Tensor:
        """Shape and dtype of what it stands for; made anew, so that nobody finds a tensor here."""
        shape, dtype = self._like
        return torch.empty(shape, dtype=dtype, device="meta")

    def compute(self, function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
        """Return what a function gives for arguments with stand-ins in them."""
        raise NotImplementedError

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Any,
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        first = next(each for each in _flat([*args, *kwargs.values()]) if isinstance(each, StandIn))
        return first.compute(function, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        known = getattr(Tensor, name)  # what a tensor lacks is an AttributeError here, too
        if name.startswith("__"):
            raise AttributeError(name)
        if callable(known):

            def method(*args: Any, **kwargs: Any) -> Any:
                return self.compute(known, (self, *args), kwargs)

            return method
        return self.compute(lambda tensor: getattr(tensor, name), (self,), {})

    @property
    def shape(self) -> torch.Size:
        """Of what it stands for."""
        return self._like[0]

    @property
    def ndim(self) -> int:
        """Dimensions."""
        return len(self._like[0])

    @property
    def dtype(self) -> torch.dtype:
        """Of what it stands for."""
        return self._like[1]

    def size(self, dim: int | None = None) -> Any:
        """See `Tensor.size`."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """See `Tensor.dim`."""
        return self.ndim

    def numel(self) -> int:
        """See `Tensor.numel`."""
        return self.shape.numel()

    def __len__(self) -> int:
        return self.shape[0]

    def __bool__(self) -> bool:
        return bool(self.compute(Tensor.__bool__, (self,), {}))


def _operator(name: str) -> Callable[..., Any]:
    function = getattr(Tensor, name)

    def operator(self: StandIn, *args: Any) -> Any:
        return self.compute(function, (self, *args), {})

    return operator


for _name in (*_OTHER, *_BINARY, *(f"r{name}" for name in _BINARY)):
    if hasattr(Tensor, f"__{_name}__"):
        setattr(StandIn, f"__{_name}__", _operator(f"__{_name}__"))
# Values that compare by element have no hash of their own.
StandIn.__hash__ = object.__hash__  # type: ignore[method-assign]


class CachedInput(StandIn):
    """One input of a batch, and the features that were computed from it.

    Args:
        name: Path of the input in the batch.
        meta: Shape and dtype of the batch's input.
        features: Of the batch, shared by all its inputs.
        load: Returns the real input of a path.
    """

    def __init__(
        self, name: str, meta: Tensor, features: Features, load: Callable[[str], Tensor]
    ) -> None:
        self.name, self.features, self._load = name, features, load
        self._like = (meta.shape, meta.dtype)
        self.device = torch.device("cpu")

    def compute(self, function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
        """Load the real input and compute with that."""
        return function(*_mapped(list(args), real), **_mapped(dict(kwargs), real))

    def real(self) -> Tensor:
        """Return the input itself, where the batch is by now."""
        return self._load(self.name).to(self.device)

    def to(self, device: Any, *_: Any, **options: Any) -> Any:
        """Move the features that it carries; for another dtype the input itself."""
        if isinstance(device, (torch.dtype, Tensor)) or "dtype" in options:
            return self.compute(Tensor.to, (self, device, *_), options)
        self.device = torch.device(device)
        self.features.move(self.device, non_blocking=bool(options.get("non_blocking")))
        return self

    def cuda(self, *_: Any, **__: Any) -> Any:
        """See `Tensor.cuda`."""
        return self.to("cuda")

    def cpu(self) -> Any:
        """See `Tensor.cpu`."""
        return self.to("cpu")

    def pin_memory(self, *_: Any) -> CachedInput:
        """Pin the features that it carries."""
        self.features.pin()
        return self

    def __repr__(self) -> str:
        return f"CachedInput({self.name!r}, shape={tuple(self.shape)}, dtype={self.dtype})"


class Features:
    """What a frozen part puts out for one batch.

    Args:
        tensors: By path in the output.
        key: Of the cache that they are from: others are not mistaken for them.
        build: Puts them together as the frozen part does.
    """

    def __init__(
        self, tensors: dict[str, Tensor], key: str, build: Callable[[dict[str, Tensor]], Any]
    ) -> None:
        self.tensors, self.key, self._build = tensors, key, build

    def move(self, device: torch.device, *, non_blocking: bool) -> None:
        """Move them to a device."""
        self.tensors = {
            name: tensor.to(device, non_blocking=non_blocking)
            for name, tensor in self.tensors.items()
        }

    def pin(self) -> None:
        """Pin their memory."""
        self.tensors = {name: tensor.pin_memory() for name, tensor in self.tensors.items()}

    def output(self) -> Any:
        """Return them as the frozen part does."""
        return self._build(self.tensors)


class Deferred(StandIn):
    """A value within the frozen part, which nobody computes: it has a shape only."""

    def __init__(self, meta: Tensor) -> None:
        self._like = (meta.shape, meta.dtype)

    def compute(self, function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
        """Work out the shape alone."""
        try:
            result = function(*_mapped(list(args), _shape), **_mapped(dict(kwargs), _shape))
        except (RuntimeError, TypeError, ValueError) as error:
            _refuse(function, error)
        return _mapped(result, lambda each: Deferred(each) if isinstance(each, Tensor) else each)

    @property
    def device(self) -> NoReturn:
        """Unknown."""
        _refuse("device", None)


def _refuse(function: Any, error: Exception | None) -> NoReturn:
    name = function if isinstance(function, str) else getattr(function, "__name__", function)
    raise CacheRefusedError(
        f"`{name}` needs a value from before the frontier, which is not computed when features are "
        "cached: choose a frontier behind it."
    ) from error


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: _mapped(part, change) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_mapped(part, change) for part in value)
    return change(value)


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [leaf for part in value for leaf in _flat(part)]
    return [value]


def real(value: Any) -> Any:
    """Return the real input for what stands in for one, anything else as it is."""
    return value.real() if isinstance(value, CachedInput) else value


def _shape(value: Any) -> Any:
    if isinstance(value, StandIn):
        return value.meta
    return value.detach().to("meta") if isinstance(value, Tensor) else value
