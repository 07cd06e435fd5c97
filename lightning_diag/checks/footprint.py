"""What training holds in memory, counted while a copy does one step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

_MOMENTS = {"Adam": 2, "AdamW": 2, "NAdam": 2, "RAdam": 2, "Adamax": 2, "Adadelta": 2,
            "RMSprop": 1, "Adagrad": 1, "Lion": 1, "ASGD": 1}  # fmt: skip
"""Numbers that an optimizer keeps for each parameter, at least."""


@dataclass(frozen=True)
class Footprint:
    """Bytes that one training step needs, by what they are for."""

    weights: int
    """Parameters and buffers."""
    gradients: int
    optimizer: int
    """Its state after a step."""
    activations: int
    """What the forward pass keeps for the backward pass; on CUDA all that came on top."""
    measured: bool = False
    """Whether the device's own count of the peak is in it, and not only that of saved tensors."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.to_come

    @property
    def to_come(self) -> int:
        """What training adds to the weights, which are there already."""
        return self.gradients + self.optimizer + self.activations


def in_bytes(count: float) -> str:
    """Write a number of bytes.

    Example:
        >>> in_bytes(2048), in_bytes(3.2e9)
        ('2.05 kB', '3.2 GB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of tensors that have a shape.

    Example:
        >>> bytes_of([torch.zeros(3), torch.zeros(2, dtype=torch.float64)])
        28
    """
    unknown = (UninitializedParameter, UninitializedBuffer)
    return sum(t.numel() * t.element_size() for t in tensors if not isinstance(t, unknown))


def state_bytes(optimizers: Iterable[Any]) -> int:
    """Return the bytes of the tensors that optimizers keep.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> adam = torch.optim.Adam(net.parameters())
        >>> net.weight.grad = torch.ones(1, 2)
        >>> _ = adam.step()
        >>> state_bytes([adam])  # two numbers for each weight, and the count of the steps
        20
    """
    states = [state for optimizer in optimizers for state in optimizer.state.values()]
    return bytes_of(tensor for state in states for tensor in _tensors(state))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)


def least_of(module: nn.Module, optimizers: Sequence[Any]) -> Footprint:
    """Return what training takes at least, from the sizes of the parameters alone.

    Example:
        >>> net = nn.Linear(10, 10, bias=False)
        >>> least_of(net, [torch.optim.Adam(net.parameters())]).to_come
        1200
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    state = 0
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            moments = _MOMENTS.get(type(optimizer).__name__, 1 if group.get("momentum") else 0)
            state += moments * bytes_of(p for p in group["params"] if p.requires_grad)
    held = bytes_of([*module.parameters(), *module.buffers()])
    return Footprint(held, bytes_of(trained), state, 0)


class _Saved:
    """A tensor that the graph holds; it is counted until the graph lets it go."""

    __slots__ = ("_count", "tensor")

    def __init__(self, tensor: Tensor, count: SavedBytes) -> None:
        self.tensor, self._count = tensor, count
        count.add(tensor)

    def __del__(self) -> None:
        self._count.drop(self.tensor)


class SavedBytes:
    """Counts the bytes that a graph holds, each storage once.

    Args:
        known: Tensors that are there anyway, such as parameters.

    Example:
        >>> x = torch.ones(100, requires_grad=True)
        >>> count = SavedBytes([x])
        >>> with count.counting():
        ...     loss = x.exp().sum()  # `exp` keeps what it returns
        >>> count.peak
        400
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        self.now = self.peak = 0
        self._known = {_key(tensor) for tensor in known}
        self._held: dict[int, int] = {}

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what is saved while this is entered, until it is let go."""
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: _Saved(tensor, self), lambda saved: saved.tensor
        ):
            yield

    def add(self, tensor: Tensor) -> None:
        """Count one more who holds a tensor."""
        key = _key(tensor)
        if key in self._known:
            return
        holders = self._held.get(key, 0)
        self._held[key] = holders + 1
        if not holders:
            self.now += _size(tensor)
            self.peak = max(self.peak, self.now)

    def drop(self, tensor: Tensor) -> None:
        """Count one less."""
        key = _key(tensor)
        holders = self._held.pop(key, 0)
        if holders > 1:
            self._held[key] = holders - 1
        elif holders:
            self.now -= _size(tensor)


def _key(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage().data_ptr()) or id(tensor)
    except (NotImplementedError, RuntimeError):  # sparse, or of a tensor of the user's own kind
        return id(tensor)


def _size(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage().nbytes())
    except (NotImplementedError, RuntimeError):
        return tensor.numel() * tensor.element_size()
