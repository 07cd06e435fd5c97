"""What a change of the trainable parameters means for the ranks that train together."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from lightning_diag._compat import MisconfigurationException

_REASONS = {
    "DeepSpeedStrategy": "DeepSpeed takes the trainable parameters over when training begins",
    "FSDPStrategy": "FSDP flattens the parameters of a unit into one, which is frozen or not",
    "XLAFSDPStrategy": "FSDP flattens the parameters of a unit into one, which is frozen or not",
    "ModelParallelStrategy": "its module decides how parameters are split over ranks",
}
"""Strategies that are refused, by name, as in both namespaces, and why (P30)."""


def refuse(trainer: Any) -> None:
    """Refuse trainers in which layers cannot be thawed while training.

    Raises:
        MisconfigurationException: If `trainer` is one of these.
    """
    for cls in type(trainer.strategy).__mro__:
        if cls.__name__ in _REASONS:
            raise MisconfigurationException(
                f"LayerFreezing does not work with {type(trainer.strategy).__name__}, since "
                f"{_REASONS[cls.__name__]}: use strategy='ddp', or set `requires_grad` yourself "
                "in `configure_model`, for the whole training."
            )


def wrap_again(trainer: Any) -> bool:
    """Have DDP reduce the gradients of exactly those parameters that require one now.

    A reducer knows the parameters that required a gradient when it was made, and no others: those
    that are thawed later would train on each rank alone, and those that are frozen later would be
    waited for. So the old wrapper is dropped, with its hooks, and a new one is made, as Lightning
    made the first. All ranks must call it, between two batches.

    Returns:
        Whether there was something to wrap.

    Raises:
        MisconfigurationException: If the module is wrapped by something else.
    """
    strategy = trainer.strategy
    wrapper, module = strategy.model, strategy.lightning_module
    if wrapper is None or wrapper is module or wrapper is getattr(module, "_orig_mod", None):
        return False
    if not isinstance(wrapper, DistributedDataParallel) or not hasattr(strategy, "configure_ddp"):
        raise MisconfigurationException(
            f"LayerFreezing cannot tell {type(wrapper).__name__}, which "
            f"{type(strategy).__name__} wraps the module with, which parameters train from now "
            "on: use strategy='ddp'."
        )
    # It takes its hooks with it, unless somebody holds on to it: then both would reduce.
    remove = getattr(wrapper, "_remove_autograd_hooks", None)  # not in torch's oldest releases
    if remove is not None:
        remove()
    strategy.model = module
    del wrapper
    strategy.configure_ddp()
    if hasattr(strategy, "_pl_static_graph_delay_done"):
        strategy._pl_static_graph_delay_done = False
    return True


def joined(trainer: Any, value: float | None) -> float | None:
    """Return a value averaged over the ranks that have it; None if none has."""
    if trainer.world_size == 1:
        return value
    mine = [0.0, 0.0] if value is None else [1.0, value]
    both = trainer.strategy.reduce(
        torch.tensor(mine, device=trainer.strategy.root_device, dtype=torch.float32),
        reduce_op="sum",
    )
    ranks, total = (float(number) for number in both)
    return total / ranks if ranks else None


def any_has(trainer: Any, *, mine: bool) -> bool:
    """Say whether a rank has something; the same on all of them."""
    if trainer.world_size == 1:
        return mine
    return bool(trainer.strategy.reduce_boolean_decision(mine, all=False))
