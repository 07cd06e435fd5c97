"""A model, and how batches get into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_diag.transfer import reading
from lightning_diag.transfer.store import CacheRefusedError
from lightning_diag.transfer.trees import leaves

_SHARDED = {"FSDPStrategy", "XLAFSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"}

Inputs = list[tuple[str | None, str]]
"""Argument's name, None where it goes by its place, and path in the batch."""


@dataclass(frozen=True)
class Where:
    """A model, and how a batch gets into it."""

    model: nn.Module
    within: str
    inputs: Inputs
    device: torch.device
    prepared: Callable[[], Any]
    """Makes a context in which the model runs as in training: autocast, for instance."""
    convert: Callable[[Any], Any] = lambda batch: batch
    """What is done to a batch before it is moved: another dtype, for instance."""
    rank: int = 0
    world: int = 1

    def arguments(self, batch: Any) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return what the model is called with for a batch."""
        known = leaves(self.convert(batch))
        lacking = [path for _, path in self.inputs if path not in known]
        if lacking:
            raise CacheRefusedError(
                f"`inputs` has {lacking[0]!r}, and a batch has {', '.join(map(repr, known))}"
            )
        # A copy: a layer that works in place would change the batch.
        pairs = [(name, known[path].to(self.device, copy=True)) for name, path in self.inputs]
        args = [tensor for name, tensor in pairs if name is None]
        return args, {name: tensor for name, tensor in pairs if name is not None}

    @contextmanager
    def context(self) -> Iterator[None]:
        """Run the model as in training, without gradients, and leave no trace."""
        with reading.same_random_state(), torch.no_grad(), self.prepared():
            yield


def input_paths(inputs: str | Sequence[str] | None, batch: Any) -> Inputs:
    """Return which values of a batch go into the model, by argument and path.

    Args:
        inputs: A path, or several in the order of the arguments, with ``name=`` before those that
            are passed by name; None takes the batch's first value.
    """
    if inputs is None:
        return [(None, next(iter(leaves(batch))))]
    pairs = [path.rpartition("=") for path in ([inputs] if isinstance(inputs, str) else inputs)]
    return [(name or None, path) for name, _, path in pairs]


def device_of(module: nn.Module) -> torch.device:
    """Return where a module's first weight is."""
    first = next(iter((*module.parameters(), *module.buffers())), None)
    return torch.device("cpu") if first is None else first.device


def why_impossible(trainer: Any, module: nn.Module) -> str | None:
    """Say why nothing of a model can be cached in this trainer, None if something may be."""
    strategy = type(trainer.strategy)
    if _SHARDED & {cls.__name__ for cls in strategy.__mro__}:
        return f"{strategy.__name__} splits the weights, so that no rank sees whether they changed"
    if getattr(module, "_compiler_ctx", None) or any(
        type(part).__name__ == "OptimizedModule" or isinstance(part, torch.jit.ScriptModule)
        for part in module.modules()
    ):
        return "the model is compiled, so that no part of it can be left out"
    return None
