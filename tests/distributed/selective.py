"""Scenarios: two ranks train on the hardest of their own samples."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from hard.numbered import Numbered, Reference
from pytorch_lightning.callbacks import ModelCheckpoint
from runs import data, trainer
from torch.utils.data import DataLoader, TensorDataset

from distributed.training import Seat
from lightning_diag import SelectiveBackprop

RESUMING = (
    "You're resuming from a checkpoint that ended before the epoch ended",
    "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
)


class Same(Numbered):
    """Takes batches by the step alone: loaders do not go on by themselves."""

    batches: tuple[Any, ...] = ()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Return the batch of a step."""
        return self.batches[self.global_step % len(self.batches)]


def _fit(seat: Seat, *callbacks: Any, path: Any = None, **options: Any) -> tuple[Same, Reference]:
    x, y = data(96).dataset.tensors  # type: ignore[attr-defined]
    own = torch.arange(seat.rank, 96, seat.ranks)
    loader: Any = DataLoader(TensorDataset(x[own], y[own], own), 12)
    torch.manual_seed(0)
    module, reference = Same(), Reference()
    module.batches = tuple(loader)
    coach = trainer(
        reference,
        SelectiveBackprop(0.25, **options),
        *callbacks,
        devices=seat.ranks,
        strategy="ddp",
        use_distributed_sampler=False,
        enable_checkpointing=bool(callbacks),
        default_root_dir=seat.folder,
    )
    coach.fit(module, loader, ckpt_path=path, weights_only=True)
    return module, reference


def chosen(seat: Seat) -> dict[str, Any]:
    """Train on the hardest; say what they were, and what they should have been."""
    module, reference = _fit(seat)
    expected = [sorted(each, key=each.__getitem__)[-3:] for each in reference.losses]
    return {
        "trained": [sorted(each) for each in module.trained],
        "expected": [sorted(each) for each in expected],
        "weights": [p.sum().item() for p in module.parameters()],
    }


def resumed(seat: Seat) -> dict[str, Any]:
    """Train on samples that are drawn, whole and from the middle of an epoch on."""
    for message in RESUMING:
        warnings.filterwarnings("ignore", message)
    saving = ModelCheckpoint(seat.folder, "{step}", every_n_train_steps=3, save_top_k=-1)
    whole, _ = _fit(seat, saving, selection="sampled")
    again, _ = _fit(seat, path=seat.folder / "step=3.ckpt", selection="sampled")
    return {
        "whole": whole.trained,
        "again": again.trained,
        "weights": [[p.sum().item() for p in module.parameters()] for module in (whole, again)],
    }


TOGETHER: list[Callable[[Seat], Any]] = [chosen, resumed]
ALONE: list[Callable[[Seat], Any]] = []
