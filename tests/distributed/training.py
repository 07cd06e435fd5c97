"""Small trainings for processes that train together, and what is kept of them."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn, overrides
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag import (
    ActivationMonitor,
    BatchNormMonitor,
    DataMonitor,
    DeadReLUTracker,
    DiagWarning,
    Doctor,
    GradientMonitor,
    GradientNoiseMonitor,
    History,
    LossMonitor,
    SetupMonitor,
    UpdateRatioLogger,
    ValidationMonitor,
    WeightMonitor,
)
from lightning_diag.measure.shards import local_part
from lightning_diag.monitors.base import Monitor
from lightning_diag.probe.probe import Probe
from lightning_diag.probe.watcher import Watcher

BATCH = 8
"""Samples of a batch, over all ranks."""
NEVER_TOO_DEAR = 1e6
"""Seconds of start-up that leave the choice of watched steps to the step numbers alone."""
LIGHTNING_SAYS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    ".*does not have many workers",
    "The number of training batches .* is smaller than the logging interval",
)
"""Warnings of Lightning's that small trainings give rise to, as in pyproject.toml."""


def quiet() -> None:
    """Ignore what Lightning says of small trainings; one thread, since ranks share the cores."""
    for message in LIGHTNING_SAYS:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Seat:
    """Which of how many processes this is, and the folder that all of them see."""

    rank: int
    ranks: int
    folder: Path

    def share_of(self, batches: Tensor) -> Tensor:
        """Return this rank's part of every batch: ``(n, batch, *)`` -> ``(samples, *)``."""
        size = batches.shape[1] // self.ranks
        return batches[:, self.rank * size : (self.rank + 1) * size].flatten(0, 1)


class Net(pl.LightningModule):
    """ReLUs as module, function and in-place method; one unit that never fires; tanh; softmax."""

    def __init__(self, lr: float = 0.05) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.lr = lr
        self.first = nn.Linear(6, 8)
        self.act = nn.ReLU()
        self.second = nn.Linear(8, 8)
        self.third = nn.Linear(8, 8)
        self.last = nn.Linear(8, 3)
        with torch.no_grad():
            self.first.bias[0] = -10.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first(x))
        x = functional.relu(self.second(x)).add(0.1).relu_()
        x = torch.tanh(self.third(x))
        return torch.softmax(self.last(x), -1)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Any:
        x, y = batch
        return (self(x) - y).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9, weight_decay=1e-3)


class Keeper(Watcher):
    """Keeps hold of the history and its folder."""

    history: History
    folder: Path | None = None

    def on_open(self, probe: Probe) -> None:
        """See `Watcher.on_open`."""
        assert probe.history is not None
        self.history, self.folder = probe.history, probe.folder


def keeper(**options: Any) -> Keeper:
    """Return a keeper that has every fourth step watched, whatever it costs."""
    return Keeper(**{"every_n_steps": 4, "startup_seconds": NEVER_TOO_DEAR, **options})


def monitors() -> list[Monitor]:
    """Return one of each monitor, with windows that a short run fills."""
    return [
        GradientMonitor(),
        ActivationMonitor(bins=4),
        DeadReLUTracker(window=24),
        UpdateRatioLogger(),
        LossMonitor(window=8),
        WeightMonitor(),
        SetupMonitor(),
        DataMonitor(),
        ValidationMonitor(),
        BatchNormMonitor(),
        GradientNoiseMonitor(),
    ]


def samples(batches: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return inputs and targets, ``(batches, batch, features)`` each, the same on every rank."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(batches, BATCH, 6, generator=generator, dtype=torch.float64)
    noise = torch.randn(batches, BATCH, 3, generator=generator, dtype=torch.float64)
    y = torch.softmax(x[..., :3] + x[..., 3:] + 0.1 * noise, -1)
    return x.to(dtype), y.to(dtype)


def loader(seat: Seat, batches: int, dtype: torch.dtype = torch.float32) -> DataLoader[Any]:
    """Return this rank's part of the data: together, ranks see the batches that one would."""
    x, y = (seat.share_of(part) for part in samples(batches, dtype))
    return DataLoader(TensorDataset(x, y), batch_size=BATCH // seat.ranks)


def trainer(seat: Seat, callbacks: Sequence[pl.Callback], **options: Any) -> pl.Trainer:
    """Return a quiet trainer; `options` are its own."""
    return pl.Trainer(
        **{
            "accelerator": "cpu",
            "devices": seat.ranks,
            "strategy": "ddp" if seat.ranks > 1 else "auto",
            "logger": False,
            "max_epochs": 1,
            "callbacks": list(callbacks),
            "default_root_dir": seat.folder / "root",
            "use_distributed_sampler": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **options,
        }
    )


def records(history: History) -> list[dict[str, Any]]:
    """Return the records in plain values."""
    return [
        {
            "step": record.step,
            "values": {metric: dict(values) for metric, values in record.values.items()},
            "dense": {metric: list(values) for metric, values in record.dense.items()},
            "lists": {
                metric: {place: list(values) for place, values in lists.items()}
                for metric, lists in record.lists.items()
            },
            "epoch": record.epoch,
            "seconds": record.seconds,
            "optimizer_steps": list(record.optimizer_steps),
        }
        for record in history.records()
    ]


def fit(seat: Seat, net: pl.LightningModule, data: Any, **options: Any) -> dict[str, Any]:
    """Train with all monitors; return history, weights and warnings in plain values.

    Args:
        options: `keep` (a keeper or a doctor) and `callbacks` take the place of the keeper and of
            the monitors; `resume` is a checkpoint to go on from; the others are the trainer's.
    """
    keep: Keeper | Doctor = options.pop("keep", None) or keeper()
    callbacks = options.pop("callbacks", None)
    resume: Path | None = options.pop("resume", None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        coach = trainer(seat, [keep, *(monitors() if callbacks is None else callbacks)], **options)
        coach.fit(net, data, ckpt_path=resume)
    return {
        "records": records(keep.history),
        "batches": coach.global_step,
        "losses": keep.history.series("loss/train").steps,
        "meta": keep.history.meta,
        "folder": str(keep.folder) if isinstance(keep, Keeper) and keep.folder else None,
        "weights": fingerprint(net),
        "warnings": diag_warnings(caught),
    }


def fingerprint(module: nn.Module) -> str:
    """Return a hash of all weights and buffers, bit for bit."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(local_part(value)[0].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def diag_warnings(caught: Sequence[warnings.WarningMessage]) -> list[str]:
    """Return the texts of the warnings that are this package's."""
    return [str(warning.message) for warning in caught if warning.category is DiagWarning]


def attached(module: nn.Module, optimizers: Sequence[Any]) -> Mapping[str, int]:
    """Count what could have been left behind on modules, tensors, optimizers and in torch."""
    from torch.nn.modules import module as global_hooks

    modes: Any = overrides
    inner = [getattr(optimizer, "optimizer", optimizer) for optimizer in optimizers]
    return {
        "global forward hooks": len(global_hooks._global_forward_hooks)
        + len(global_hooks._global_forward_pre_hooks),
        "function modes": len(modes._get_current_function_mode_stack()),
        "module hooks": sum(
            len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()
        ),
        "optimizer hooks": sum(
            len(optimizer._optimizer_step_post_hooks) + len(optimizer._optimizer_step_pre_hooks)
            for optimizer in inner
        ),
        "probes": len(Probe._all),
    }
