"""Scenarios: hard examples of the batch of all ranks, and of one process that has it all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from distributed.training import Seat
from lightning_diag import HardMining, OHEMLoss

SIZES = ((4, 4), (2, 7), (0, 5), (3, 0), (0, 0), (5, 5))
"""Samples of each rank in each step."""
RULES: dict[str, dict[str, Any]] = {
    "share": {"keep": 0.3},
    "count": {"keep": 3, "weight": [1.0, 2.0, 0.5]},
    "threshold": {"threshold": 1.2, "min_kept": 2},
    "ratio": {"ratio": 1.5, "skip_top": 0.2},
    "sum": {"keep": 0.3, "reduction": "sum"},
}
MICRO = 2
_SPOILT = 9.0
"""Features of the sample whose logits are not finite."""


def _samples(step: int) -> tuple[Tensor, Tensor]:
    """Return the samples of all ranks in a step, some of no use, some with equal losses."""
    generator = torch.Generator().manual_seed(step)
    n = sum(SIZES[step])
    x = torch.randn(n, 4, generator=generator).round()
    y = torch.randint(0, 3, (n,), generator=generator)
    if n > 5:
        x[-1], y[-2], x[1], y[1] = _SPOILT, -100, x[-3], y[-3]
    return x, y


def _part(seat: Seat, step: int) -> tuple[Tensor, Tensor]:
    x, y = _samples(step)
    if seat.ranks == 1:
        return x, y
    first = SIZES[step][0]
    part = slice(first) if seat.rank == 0 else slice(first, None)
    return x[part], y[part]


def _network() -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(4, 3)


@contextmanager
def _counted() -> Iterator[list[int]]:
    """Give a list that gets a number for each collective of a piece of code."""
    gather, calls = dist.all_gather, []

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return gather(*args, **kwargs)

    dist.all_gather = counting
    try:
        yield calls
    finally:
        dist.all_gather = gather


def steps(seat: Seat) -> dict[str, Any]:
    """Go backward from the loss of each step, with each rule."""
    return {name: _stepped(seat, rule) for name, rule in RULES.items()}


def _stepped(seat: Seat, rule: dict[str, Any]) -> list[dict[str, Any]]:
    network: Any = _network()
    criterion = OHEMLoss(scope="global", **rule)
    criterion.is_watched = True
    wrapped = DistributedDataParallel(network) if seat.ranks > 1 else network
    found = []
    for step in range(len(SIZES)):
        x, y = _part(seat, step)
        network.zero_grad()
        with _counted() as calls:
            logits = wrapped(x)
            spoilt = logits.new_zeros(len(x), 1).masked_fill(x[:, :1] == _SPOILT, math.nan)
            loss = criterion(logits + spoilt, y)
        loss.backward()
        assert criterion.mined is not None
        found.append(
            {
                "loss": loss.item(),
                "gradient": network.weight.grad.flatten().tolist(),
                "kept": int(criterion.mined.kept),
                "valid": int(criterion.mined.valid),
                "collectives": len(calls),
            }
        )
    return found


def evaluated(seat: Seat) -> float:
    """Evaluate on the first rank alone: nothing is joined."""
    criterion = OHEMLoss(scope="global").eval()
    x, y = _samples(0)
    return float(criterion(_network()(x), y).detach()) if seat.rank == 0 else 0.0


class _Miner(pl.LightningModule):
    def __init__(self, scope: Any) -> None:
        super().__init__()
        self.network = _network()
        self.criterion = OHEMLoss(keep=0.3, scope=scope, warmup_epochs=1)
        self.rows: list[dict[str, float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self.criterion(self.network(batch[0]), batch[1])
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5)


class _Keeper(pl.loggers.Logger):
    name = version = "kept"

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Leave them aside."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keep what was mined."""
        if "mining/kept_fraction/criterion" in metrics:
            self.rows.append(dict(metrics))


def fits(seat: Seat) -> dict[str, Any]:
    """Train on the accumulated batch of all ranks; one process has it whole, or in parts."""
    whole = _fit(seat, "all", 16 // (MICRO * seat.ranks), MICRO)
    return (
        {"all": whole, "alone": _fit(seat, "batch", 16, 1)} if seat.ranks == 1 else {"all": whole}
    )


def _fit(seat: Seat, scope: str, batch_size: int, micro: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(9)
    x, y = torch.randn(48, 4, generator=generator), torch.randint(0, 3, (48,), generator=generator)
    # micro-batches of a rank are neighbours in the joined batch, as ranks are
    order = torch.arange(48).view(3, 16)
    own = order.view(3, seat.ranks, -1)[:, seat.rank].flatten()
    logger, module = _Keeper(), _Miner(scope)
    pl.Trainer(
        accelerator="cpu",
        devices=seat.ranks,
        strategy="ddp" if seat.ranks > 1 else "auto",
        use_distributed_sampler=False,
        accumulate_grad_batches=micro,
        max_epochs=2,
        callbacks=[HardMining()],
        logger=logger if seat.rank == 0 else False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=seat.folder,
    ).fit(module, DataLoader(TensorDataset(x[own], y[own]), batch_size))
    return {"weight": module.network.weight.flatten().tolist(), "rows": logger.rows}


TOGETHER: list[Callable[[Seat], Any]] = [steps, evaluated, fits]
ALONE: list[Callable[[Seat], Any]] = [steps, evaluated, fits]
