"""A user's script: trains with a doctor, however its processes come about.

python -m distributed.script FOLDER STRATEGY DEVICES NODES
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from distributed.training import NEVER_TOO_DEAR, Net, Seat, loader, monitors, quiet, trainer
from lightning_diag import Doctor

STEPS = 10


class OwnData(Net):
    """Brings its own data, since only a rank's own process knows the rank."""

    def setup(self, stage: str) -> None:
        """Be quiet in the process that trains."""
        quiet()

    def train_dataloader(self) -> DataLoader[Any]:
        """Return this rank's part."""
        seat = Seat(self.global_rank, self.trainer.world_size, Path())
        return loader(seat, STEPS, torch.float64)


def train(folder: Path, strategy: str, devices: int = 1, nodes: int = 1) -> None:
    """Train; the history is what is left."""
    trainer(
        Seat(0, devices, folder),
        [Doctor(1, startup_seconds=NEVER_TOO_DEAR, monitors=monitors())],
        strategy=strategy,
        num_nodes=nodes,
        precision="64-true",
        default_root_dir=folder / strategy,
    ).fit(OwnData())


if __name__ == "__main__":
    for name in sys.argv[2].split(","):
        train(Path(sys.argv[1]), name, int(sys.argv[3]), int(sys.argv[4]))
