"""Runs in files, for tests of the command line: made up ones, and real ones of the demo."""

from __future__ import annotations

import shutil
from pathlib import Path

from report_runs import RUNS

from lightning_diag.finding import Finding
from lightning_diag.history import History
from lightning_diag.record import Record

REAL = Path(__file__).resolve().parent / "data" / "runs"
"""Histories of `lightning-diag demo`: a healthy training, and one at far too high a rate."""


def write(history: History, findings: list[Finding], folder: Path) -> Path:
    """Write a run as a training would, and return its log folder."""
    path = folder / "lightning_diag" / "history.jsonl"
    path.parent.mkdir(parents=True)
    with History(path) as stored:
        stored.update_meta(history.meta)
        for record in history.records():
            stored.append(record)
        for finding in findings:
            stored.add_finding(finding)
    return folder


def store(run: str, folder: Path) -> Path:
    """Write a made-up run, and return its log folder."""
    return write(*RUNS[run](), folder)


def copy(run: str, folder: Path) -> Path:
    """Copy a real run, and return its log folder."""
    target = folder / "lightning_diag" / "history.jsonl"
    target.parent.mkdir(parents=True)
    shutil.copy(REAL / f"{run}.jsonl", target)
    return folder


def record(step: int, loss: float = 1.0, norm: float = 0.5, seconds: float | None = None) -> Record:
    """Return a record as a probe writes it."""
    values = {
        "gradient/total_norm": {"": norm},
        "update/ratio": {"net.weight": 1e-3, "net.bias": 5.0},
        "lr/value": {"SGD/group0": 0.1},
    }
    taken = step / 100 if seconds is None else seconds
    return Record(step, values, {"loss/train": [loss]}, epoch=step // 100, seconds=taken)


def history_at(path: Path) -> History:
    history = History(path)
    history.update_meta(
        {
            "parameters": {"net.weight": {"shape": [4, 4]}, "net.bias": {"shape": [4]}},
            "trainer": {"max_epochs": 20, "max_steps": -1},
            "validation": {"loss": "val_loss"},
        }
    )
    return history
