"""One of the processes that train together: runs a group of scenarios, keeps what they return."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from distributed.training import Seat, quiet

Scenario = Callable[[Seat], Any]


def result_file(folder: Path, name: str, rank: int, ranks: int) -> Path:
    """Return where a scenario's result goes."""
    return folder / f"{name}.{rank}of{ranks}.json"


def perform(scenario: Scenario, seat: Seat) -> None:
    """Run one scenario and write its result down; nobody else may see a half of it."""
    print(f"{scenario.__name__}, rank {seat.rank} of {seat.ranks}", flush=True)
    path = result_file(seat.folder, scenario.__name__, seat.rank, seat.ranks)
    place = seat.folder / f"{scenario.__name__}-{seat.ranks}"
    place.mkdir(exist_ok=True)
    path.write_text(json.dumps(scenario(Seat(seat.rank, seat.ranks, place))))


def main(group: str, rank: int, ranks: int, folder: Path) -> None:
    """Run what all ranks do together, then on the first one what it does alone.

    Args:
        group: Module of this package whose TOGETHER and ALONE list the scenarios.
    """
    module = importlib.import_module(f"distributed.{group}")
    quiet()
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=30),
    )
    for scenario in module.TOGETHER:
        perform(scenario, Seat(rank, ranks, folder))
    dist.destroy_process_group()
    if rank == 0:
        for scenario in module.ALONE:
            perform(scenario, Seat(0, 1, folder))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
