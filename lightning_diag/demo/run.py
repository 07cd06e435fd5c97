"""Runs the demo's trainings, says how they ended, and where their pages are."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rich
import torch
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text
from torch.utils.data import DataLoader

from lightning_diag._compat import Callback
from lightning_diag.demo.experiments import EXPERIMENTS, LIGHTNING, Classifier, Experiment, digits
from lightning_diag.doctor import REPORT_FILE, Doctor
from lightning_diag.history.file import find
from lightning_diag.report.words import percent


def train(
    experiment: Experiment, folder: Path, *, seed: int, epochs: int = 20
) -> tuple[Doctor, float]:
    """Train one of the networks; return its doctor and its accuracy on the validation set."""
    training_set, validation_set = digits(seed)
    doctor = Doctor(dirpath=str(folder))
    with _quiet(), _one_thread():
        LIGHTNING.seed_everything(seed, verbose=False)
        trainer = LIGHTNING.Trainer(
            max_epochs=epochs,
            callbacks=[doctor, _Bar()],
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(
            Classifier(experiment),
            DataLoader(training_set, batch_size=64, shuffle=True),
            DataLoader(validation_set, batch_size=len(validation_set)),
        )
    return doctor, float(trainer.callback_metrics["accuracy"])


def run(folder: Path, *, seed: int = 0) -> list[Doctor]:
    """Run all experiments, say what is found, and where the pages are.

    Args:
        folder: Where each experiment gets a folder of its own.
        seed: Seed of the data's split, the weights and the order of the batches.

    Returns:
        The doctor of each experiment.
    """
    console = rich.get_console()
    line: dict[str, Any] = {"style": "dim", "align": "left"}
    doctors = []
    start = time.monotonic()
    for i, experiment in enumerate(EXPERIMENTS, start=1):
        console.print()
        console.rule(Text(f"{i} of {len(EXPERIMENTS)}: {experiment.title}", "bold"), **line)
        console.print(f"  {experiment.details}", highlight=False)
        doctor, accuracy = train(experiment, folder / experiment.name, seed=seed)
        _outcome(doctor, accuracy)
        doctors.append(doctor)
    console.print()
    console.rule(
        f"[bold]{len(doctors)} trainings in {time.monotonic() - start:.0f} s", align="left"
    )
    closing = (
        "Watching costs more here than in a long run: it is densest at the start, and these runs "
        "end there. The pages with pictures, each beside its history:"
    )
    console.print(Padding(closing, (0, 0, 0, 2)))
    for experiment in EXPERIMENTS:
        page = find(folder / experiment.name).with_name(REPORT_FILE).resolve()
        console.print(f"  {page.as_uri()}", soft_wrap=True, highlight=False, markup=False)
    return doctors


def dead_share(doctor: Doctor) -> float | None:
    """Return which share of all ReLU units is dead at the end; None without ReLUs."""
    # Every hidden layer of these nets is equally wide, so their mean is the share of all units.
    shares = doctor.history.last("dead_relu/fraction").values()
    return sum(shares) / len(shares) if shares else None


def _outcome(doctor: Doctor, accuracy: float) -> None:
    """Print what the training came to, beside what was said of it."""
    text = f"{percent(accuracy)} of unseen digits are read right"
    dead = dead_share(doctor)
    if dead is not None:
        text += f", {percent(dead)} of all ReLU units are dead"
    rich.get_console().print(f"  [dim]Outcome[/]       {text}", highlight=False)


class _Bar(Callback):
    """A progress bar that leaves nothing behind."""

    def __init__(self) -> None:
        super().__init__()
        console = rich.get_console()
        self._progress = Progress(
            TextColumn("  training"),
            BarColumn(),
            TextColumn("{task.completed:.0f} of {task.total:.0f} steps"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            # Elsewhere nothing moves, and only an empty line would be left.
            disable=not console.is_terminal,
        )

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Show the bar."""
        self._task = self._progress.add_task("", total=trainer.estimated_stepping_batches)
        self._progress.start()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar on."""
        self._progress.update(self._task, completed=trainer.global_step)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Take the bar away."""
        self._progress.stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Give the terminal its cursor back."""
        self._progress.stop()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Lightning says of the machine and of loaders; findings are the point here."""
    log = logging.getLogger(LIGHTNING.__name__)
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", category=FutureWarning, module=r".*lightning\b")
            yield
    finally:
        log.setLevel(level)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: for nets this small more of them only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
