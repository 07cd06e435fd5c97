"""Where a module keeps its weights and buffers, by names that wrappers do not change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_WRAPPED_AS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_fpw_module")
"""Attributes under which compile, activation checkpointing and FSDP keep the module they wrap."""
_PARALLEL = ("DistributedDataParallel", "DataParallel")
_SHARDED = ("FullyShardedDataParallel", "DTensor", "ShardedTensor")


@dataclass(frozen=True, eq=False)
class Slot:
    """One parameter or buffer of a module that belongs to its state."""

    name: str
    """Its place, without what wrappers add."""
    tensor: Tensor
    owner: nn.Module
    attribute: str
    """What its owner calls it."""

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for slots that hold the same numbers in the same memory: tied weights."""
        tensor = self.tensor
        if not tensor.numel():
            return (id(tensor),)
        pointer = tensor.untyped_storage().data_ptr()
        return pointer, tensor.storage_offset(), tensor.dtype, tensor.shape, tensor.stride()


def without_wrappers(name: str) -> str:
    """Return a name without the parts that compile, checkpointing and FSDP add.

    Example:
        >>> without_wrappers("net._orig_mod.0.weight")
        'net.0.weight'
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPED_AS)


def slots_of(root: nn.Module) -> list[Slot]:
    """Return what a module's state holds, in its order: tied weights under each of their names.

    Raises:
        ValueError: If there is nothing to write to: sharded, on the meta device, or lazy.
    """
    found = [
        Slot(f"{path}.{key}" if path else key, tensor, owner, key)
        for path, owner in _paths(root)
        for key, tensor in _state(owner)
    ]
    for slot in found:
        _must_be_writable(slot)
    return found


def _paths(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    parallel: list[str] = []
    for path, owner in root.named_modules(remove_duplicate=False):
        kind = type(owner).__name__
        if kind in _SHARDED:
            raise ValueError(f"{_where(path)} is sharded ({kind}): {_BEFORE_SHARDING}")
        clean = path
        for inner in reversed(parallel):
            if clean == inner or clean.startswith(inner + "."):
                clean = (inner.removesuffix("module") + clean[len(inner) + 1 :]).strip(".")
        if kind in _PARALLEL:
            parallel.append(f"{path}.module" if path else "module")
        yield without_wrappers(clean), owner


def _state(owner: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for key, parameter in owner._parameters.items():
        if parameter is not None:
            yield key, parameter
    for key, buffer in owner._buffers.items():
        if buffer is not None and key not in owner._non_persistent_buffers_set:
            yield key, buffer


_BEFORE_SHARDING = "load before it is sharded, on the module as you construct it."


def _must_be_writable(slot: Slot) -> None:
    tensor = slot.tensor
    if type(tensor).__name__ in _SHARDED:
        raise ValueError(f"{slot.name!r} is sharded: {_BEFORE_SHARDING}")
    if is_lazy(tensor):
        raise ValueError(
            f"{slot.name!r} has no shape yet, since its layer is lazy: run one batch through the "
            "module before you load."
        )
    if tensor.is_meta:
        raise ValueError(
            f"{slot.name!r} is on the meta device and holds no numbers: call "
            "`module.to_empty(device=...)` before you load, and initialise what the source lacks."
        )


def _where(path: str) -> str:
    return repr(path) if path else "The module"


@contextmanager
def restored_on_failure(root: nn.Module, touched: list[Slot]) -> Iterator[None]:
    """Have a module as it was if what is done meanwhile raises, Ctrl-C included.

    Cost: a copy of the touched tensors in the host's memory, for that long.
    """
    held = [(dict(owner._parameters), dict(owner._buffers), owner) for owner in root.modules()]
    before = {slot.identity: slot for slot in touched}
    copies = [(slot.tensor, slot.tensor.detach().to("cpu", copy=True)) for slot in before.values()]
    try:
        yield
    except BaseException:
        for parameters, buffers, owner in held:
            owner._parameters.update(parameters)
            owner._buffers.update(buffers)
        with torch.no_grad():
            for tensor, copy in copies:
                with suppress(RuntimeError):  # what torch does not let us write was not changed
                    tensor.copy_(copy)
        raise
