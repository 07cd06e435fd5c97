"""Scenarios: copies of a model that stay the same on all ranks, and copies that do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from distributed.training import NEVER_TOO_DEAR, Net, Seat, loader, records, trainer
from lightning_diag import Doctor, SetupMonitor
from lightning_diag.rules.rank_divergence import RankDivergence

STEPS = 20


class Thawing(Net):
    """Has a layer that requires no gradients when DDP wraps the model, and does from a step on.

    Args:
        at: That step.
    """

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at
        self.second.requires_grad_(requires_grad=False)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Unfreeze on every rank."""
        if self.global_step == self.at:
            self.second.requires_grad_(requires_grad=True)


class Own(Net):
    """Draws a weight anew on each rank, after DDP has made them equal."""

    def on_train_start(self) -> None:
        """Draw it."""
        generator = torch.Generator().manual_seed(self.global_rank)
        with torch.no_grad():
            self.third.weight.normal_(generator=generator)


def _fit(seat: Seat, net: Net) -> dict[str, Any]:
    doctor = Doctor(
        1,
        startup_seconds=NEVER_TOO_DEAR,
        monitors=[SetupMonitor()],
        rules=[RankDivergence()],
    )
    trainer(seat, [doctor]).fit(net, loader(seat, STEPS))
    return {
        "records": records(doctor.history),
        "findings": [finding.to_dict() for finding in doctor.findings],
    }


def equal(seat: Seat) -> dict[str, Any]:
    """Train as DDP means it."""
    return _fit(seat, Net())


def thawed(seat: Seat) -> dict[str, Any]:
    """Unfreeze a layer after DDP has wrapped the model."""
    return _fit(seat, Thawing(4))


def thawed_late(seat: Seat) -> dict[str, Any]:
    """Unfreeze it later."""
    return _fit(seat, Thawing(10))


def own(seat: Seat) -> dict[str, Any]:
    """Start from unlike weights."""
    return _fit(seat, Own())


TOGETHER: list[Callable[[Seat], Any]] = [equal, thawed, thawed_late, own]
ALONE: list[Callable[[Seat], Any]] = []
"""Copies are compared where there are several."""
