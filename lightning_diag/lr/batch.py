"""How many samples an optimizer step is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from lightning_diag._compat import MisconfigurationException


@dataclass(frozen=True)
class EffectiveBatch:
    """The samples of one optimizer step."""

    per_device: float
    """Samples of a batch on one device, on average over devices."""
    devices: int
    """Devices that get samples of their own."""
    accumulation: int
    """Batches of an optimizer step."""

    @property
    def size(self) -> float:
        """Samples of one optimizer step."""
        return self.per_device * self.devices * self.accumulation

    def __str__(self) -> str:
        return (
            f"{self.size:g} = {self.per_device:g} per device × {self.devices} "
            f"device{'s' * (self.devices != 1)} × {self.accumulation} accumulated"
        )


def own_batch_size(loader: Any) -> int | None:
    """Return the samples of one batch of a loader, None if it does not say.

    The size of the loader itself, or of its batch sampler; several loaders say nothing together.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> own_batch_size(DataLoader(range(8), batch_size=4))
        4
        >>> own_batch_size([[1, 2], [3, 4]]) is None
        True
    """
    for holder in (loader, getattr(loader, "batch_sampler", None)):
        size = getattr(holder, "batch_size", None)
        if isinstance(size, int) and not isinstance(size, bool) and size > 0:
            return size
    return None


def batch_over_devices(trainer: Any, given: int | None) -> tuple[float, int]:
    """Return the samples of a batch per device and the devices; every rank must call this.

    Ranks are asked, since each has a loader of its own: a learning rate that differs between ranks
    would let their weights drift apart.

    Args:
        given: What the user says of this rank; None asks its loader.

    Raises:
        MisconfigurationException: If a rank does not know.
    """
    own = own_batch_size(trainer.train_dataloader) if given is None else given
    total, unknown, ranks = own or 0, int(own is None), int(trainer.world_size)
    if ranks > 1:
        sums = torch.tensor([total, unknown], device=trainer.strategy.root_device)
        total, unknown = trainer.strategy.reduce(sums, reduce_op="sum").tolist()
    if unknown:
        kind = type(trainer.train_dataloader).__name__
        raise MisconfigurationException(
            f"The batch size cannot be read from the training data (a {kind} without "
            "`batch_size`): say how many samples a batch has on one device, as in "
            "LinearScalingLR(batch_size=32)."
        )
    return total / ranks, replicas(trainer)


def replicas(trainer: Any) -> int:
    """Return the devices that get samples of their own: those that share a model count as one."""
    shares = getattr(trainer.strategy, "distributed_sampler_kwargs", None) or {}
    return int(shares.get("num_replicas", 1))
