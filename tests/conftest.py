"""What all tests share: a clean folder, fixed seeds, and both Lightnings."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import warm

import lightning_diag

ROOT = Path(__file__).resolve().parent.parent
RunPython = Callable[..., str]

# Tensors that are made while tests are collected must be the same in every worker.
torch.manual_seed(0)


def pytest_collection_finish() -> None:
    """Spare the garbage collector what was imported: tests that call it would wait for seconds."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _clean_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in its own folder, with fixed seeds, and never online."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    # LightningCLI sets it, and every loader of a later fit would then get a `worker_init_fn`
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    torch.manual_seed(0)


@pytest.fixture(params=["pytorch_lightning", "lightning.pytorch"])
def lightning(request: pytest.FixtureRequest) -> ModuleType:
    """Give the test each of the two namespaces in turn."""
    return importlib.import_module(request.param)


@pytest.fixture
def root() -> Path:
    """Return the project's folder, which holds the docs, the examples and `pyproject.toml`."""
    return ROOT


@pytest.fixture
def run_python() -> RunPython:
    """Return a function that runs code in a fresh interpreter and returns what it printed.

    With `torch`, that has imported torch and torchmetrics already, which otherwise takes seconds.
    """
    home = Path(lightning_diag.__file__).resolve().parent.parent

    def run(code: str, *arguments: str, timeout: float = 100, torch: bool = False) -> str:
        environment = {**os.environ, "PYTHONPATH": str(home), "OMP_NUM_THREADS": "1"}
        given = ["-c", code, *arguments]
        if torch:
            result = warm.run_python(given, Path.cwd(), environment, seconds=timeout)
        else:
            result = subprocess.run(
                [sys.executable, "-W", "error", *given],
                env=environment,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


@pytest.fixture(autouse=True)
def _lightning_says_what_it_says_by_default() -> Iterator[None]:
    """Whatever level of its loggers an earlier test, or an example that it ran, has set."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "pytorch_lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.INFO)
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """LightningCLI minds the test runner's arguments, and calls what jsonargparse has replaced."""
    monkeypatch.setattr("sys.argv", ["train"])
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
