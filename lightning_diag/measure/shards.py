"""Parameters that are spread over ranks: each rank measures the part that it holds."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def local_part(x: Tensor) -> tuple[Tensor, float]:
    """Return the part of `x` on this rank, and how much of one observation it stands for.

    A plain tensor is the same on every rank: 1 observation a rank. Of a tensor sharded over n
    ranks (FSDP2's `DTensor`) each holds a part and 1/n of an observation, so that sums over all
    ranks divided by observations are those of the whole tensor, however often it is replicated.

    Raises:
        TypeError: If the tensor holds partial sums, whose parts do not add up to statistics.
    """
    if not hasattr(x, "to_local"):
        return x, 1.0
    sharded: Any = x
    share = 1.0
    for size, placement in zip(sharded.device_mesh.shape, sharded.placements, strict=True):
        if placement.is_partial():
            message = f"a gradient that is a partial sum ({sharded.placements}) cannot be measured"
            raise TypeError(message)
        if placement.is_shard():
            share /= size
    local: Tensor = sharded.to_local()
    return local, share
