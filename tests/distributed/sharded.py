"""Scenarios: parameters that are spread over ranks, and the same ones in one piece."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn

from distributed.training import Net, Seat, fingerprint, fit, loader, trainer
from lightning_diag.measure.shards import local_part

STEPS = 12
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"precision": "32-true"},
    "clipped": {"precision": "32-true", "accumulate_grad_batches": 2, "gradient_clip_val": 0.02},
}
"""Name to the trainer's options."""


class Sharded(Net):
    """Shards its layers over ranks where there are several; one is too small for two."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 1)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        """Let the small layer have a say."""
        return super().forward(x) * torch.sigmoid(self.gate(x))

    def configure_model(self) -> None:
        """Shard each layer, and what is left."""
        if self.trainer.world_size == 1:
            return
        from torch.distributed.fsdp import fully_shard

        assert self.device_mesh is not None
        mesh = self.device_mesh["data_parallel"]
        for layer in (self.first, self.second, self.third, self.last, self.gate):
            fully_shard(layer, mesh=mesh)
        fully_shard(self, mesh=mesh)


def _strategy(seat: Seat) -> Any:
    if seat.ranks == 1:
        return "auto"
    return ModelParallelStrategy(
        data_parallel_size=seat.ranks, tensor_parallel_size=1, process_group_backend="gloo"
    )


def spread(seat: Seat) -> dict[str, Any]:
    """Train each configuration with all monitors, and without."""
    results = {}
    for name, options in OPTIONS.items():
        batches = STEPS * int(options.get("accumulate_grad_batches", 1))
        data = loader(seat, batches, torch.float64)
        net, bare = Sharded(), Sharded()
        watched = fit(seat, net, data, strategy=_strategy(seat), **options)
        trainer(seat, [], strategy=_strategy(seat), **options).fit(bare, data)
        parts = {name: local_part(p)[0].numel() for name, p in net.named_parameters()}
        results[name] = {**watched, "bare": fingerprint(bare), "parts": parts}
    return results


TOGETHER: list[Callable[[Seat], Any]] = [spread]
ALONE: list[Callable[[Seat], Any]] = [spread]
