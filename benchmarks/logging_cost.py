"""Measure what logging costs: seconds of one watched step over those of a bare Trainer's step.

Run it as ``python benchmarks/logging_cost.py``. Each logger gets a run of its own, with every step
watched, and the time inside of what `lightning_diag` sends it is taken step by step. What only
comes at times, such as tables and heat maps, is a row of its own. Of all times the median is shown;
W&B sends from a process of its own, which is not in it.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from torch.utils.data import DataLoader
from workloads import WORKLOADS

from lightning_diag import Doctor
from lightning_diag.loggers.write import Screens

SEED = 0
LOGGERS: dict[str, Callable[[Path], Logger]] = {
    "CSV": CSVLogger,
    "TensorBoard": TensorBoardLogger,
    "W&B, offline": lambda folder: WandbLogger(save_dir=folder, offline=True),
}
PARTS = {
    "show_record": "scalars and histograms, each watched step",
    "show_layers": "tables and heat maps, after 64, 256, 1024 ... of them, and last",
    "show_findings": "the verdict, when something new is found",
    "show_end": "findings and report, once at the end",
}


class Clock(Callback):
    """Takes the time from one step's start to the next."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        """Take the time."""
        self.starts.append(time.perf_counter())

    def step(self) -> float:
        """Return the median step, without the first ones."""
        pairs = zip(self.starts[10:], self.starts[11:], strict=False)
        return statistics.median(b - a for a, b in pairs)


@contextmanager
def stopwatch() -> Iterator[dict[str, list[float]]]:
    """Take the time inside of everything that goes to loggers, by its name."""
    seconds: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, method: Callable[..., None]) -> Callable[..., None]:
        def run(*args: Any, **kwargs: Any) -> None:
            began = time.perf_counter()
            method(*args, **kwargs)
            seconds[name].append(time.perf_counter() - began)

        return run

    kept = {name: vars(Screens)[name] for name in PARTS}
    for name, method in kept.items():
        setattr(Screens, name, timed(name, method))
    try:
        yield seconds
    finally:
        for name, method in kept.items():
            setattr(Screens, name, method)


def train(workload: str, steps: int, folder: Path, logger: Any, *callbacks: Callback) -> None:
    """Train for a number of steps."""
    chosen = WORKLOADS["cpu"][workload]
    batches = chosen.batches(SEED, 8, "cpu")
    dataset: Any = [batches[i % 8] for i in range(steps)]
    loader = DataLoader(dataset, batch_size=None)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        precision=chosen.precision,
        logger=logger,
        callbacks=list(callbacks),
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(chosen.task(SEED), loader)


def measure(workload: str, steps: int) -> list[str]:
    """Return the lines of a table in Markdown."""
    bare = Clock()
    with tempfile.TemporaryDirectory() as folder:
        train(workload, steps, Path(folder), False, bare)  # noqa: FBT003
    step = bare.step()
    lines = [
        f"{workload}: a bare step takes {1000 * step:.2f} ms",
        "",
        "| logger | what | times | ms | over a bare step |",
        "|---|---|--:|--:|--:|",
    ]
    for title, make in LOGGERS.items():
        watched = Doctor(every_n_steps=1, max_overhead=1e9, startup_seconds=1e9)
        with tempfile.TemporaryDirectory() as folder, stopwatch() as taken:
            train(workload, steps, Path(folder), make(Path(folder)), watched)
            if title.startswith("W&B"):
                import wandb

                wandb.finish()
        for name, what in PARTS.items():
            if seconds := taken[name]:
                median = statistics.median(seconds)
                lines.append(
                    f"| {title} | {what} | {len(seconds)} | {1000 * median:.2f} "
                    f"| {median / step:.3f} |"
                )
    return lines


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description="Measure what logging costs.")
    parser.add_argument("--workload", choices=("mlp", "resnet", "transformer"), default="resnet")
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    kept, sys.stdout = sys.stdout, sys.stderr  # the verdicts
    try:
        lines = measure(options.workload, options.steps)
    finally:
        sys.stdout = kept
    print("\n".join(lines))


if __name__ == "__main__":
    main()
