"""What Doctor costs on steps that are not watched, or on watched ones, within one process.

python benchmarks/hooks.py --workload mlp --steps 3000
python benchmarks/hooks.py --workload mlp --steps 3000 --watch

The hooks are turned on and off every ten steps, so that both see the same process, memory and
machine: `overhead.py` compares processes, which differ by more than the hooks cost.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from statistics import median, stdev
from typing import Any, cast

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from workloads import WORKLOADS

from lightning_diag import Doctor

BLOCK = 10
"""Steps before the hooks are turned on or off."""
WARM_UP = 100
"""Steps before anything is measured."""


class Sometimes(Doctor):
    """Doctor, whose hooks of batches do nothing while it is off."""

    is_on = True


def _gated(name: str) -> Callable[..., Any]:
    hook = getattr(Doctor, name)

    def gated(self: Sometimes, *args: Any) -> Any:
        return hook(self, *args) if self.is_on else None

    return gated


for _name in dir(Callback):
    if any(part in _name for part in ("train_batch", "backward", "optimizer_step")):
        setattr(Sometimes, _name, _gated(_name))


class Batches:
    """Gives batches, notes the processor time, and turns the hooks on and off."""

    def __init__(self, doctor: Sometimes, batches: list[Any], steps: int) -> None:
        self._doctor, self._batches, self._steps = doctor, batches, steps
        self.times: list[float] = []

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Any]:
        for i in range(self._steps):
            self._doctor.is_on = i < WARM_UP or (i // BLOCK) % 2 == 0
            self.times.append(time.process_time())
            yield self._batches[i % len(self._batches)]


def differences(times: list[float]) -> list[float]:
    """Return, for each pair of blocks, the median step with hooks less that without, in seconds.

    Args:
        times: When each step began.

    Example:
        >>> differences([float(i) for i in range(121)])
        [0.0]
    """
    steps = [after - before for before, after in pairwise(times)]
    return [
        median(steps[i : i + BLOCK]) - median(steps[i + BLOCK : i + 2 * BLOCK])
        for i in range(WARM_UP, len(steps) - 2 * BLOCK + 1, 2 * BLOCK)
    ]


def bare_steps(times: list[float]) -> list[float]:
    """Return the steps that the hooks were off for, in seconds."""
    steps = [after - before for before, after in pairwise(times)]
    return [s for i, s in enumerate(steps) if i >= WARM_UP and (i // BLOCK) % 2 == 1]


def main() -> None:
    """Train, and print what the hooks cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", choices=sorted(WORKLOADS["cpu"]), default="mlp")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--watch", action="store_true", help="watch every step, while turned on")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    workload = WORKLOADS["cpu"][options.workload]
    if options.watch:
        doctor = Sometimes(every_n_steps=1, startup_seconds=1e9, max_overhead=1e9)
    else:  # the first step alone is watched
        doctor = Sometimes(startup_seconds=0.0, max_overhead=1e-9)
    batches = Batches(doctor, workload.batches(1, 8, "cpu"), options.steps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=CSVLogger(folder),
            callbacks=[doctor],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(workload.task(1), cast("Any", batches))
    found = [seconds * 1e3 for seconds in differences(batches.times)]
    error = 1.25 * stdev(found) / len(found) ** 0.5  # of a median
    bare = median(bare_steps(batches.times)) * 1e3
    what = "watching a step costs" if options.watch else "hooks of a step not watched cost"
    print(
        f"{options.workload}: {what} {median(found):.3f} ms (± {error:.3f}, {len(found)} pairs of "
        f"blocks); a bare step takes {bare:.2f} ms: {1 + median(found) / bare:.3f} "
        f"(± {error / bare:.3f})."
    )


if __name__ == "__main__":
    main()
