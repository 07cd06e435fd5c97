"""Starts the processes of a group of scenarios, once for all tests, and reads what they kept."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import warm

import lightning_diag
from distributed.worker import result_file

SECONDS = 100.0
"""Patience with one launch, below that of a test."""
ASSIGNED = ("LOCAL_RANK", "NODE_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What tells a process its place; each launch says it anew."""
TESTS = Path(__file__).resolve().parent.parent
HOME = Path(lightning_diag.__file__).resolve().parent.parent


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a process that trains: quiet, offline, on loopback alone."""
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    inherited = {name: value for name, value in os.environ.items() if name not in ASSIGNED}
    return {
        **inherited,
        **loopback,
        "PYTHONPATH": os.pathsep.join([str(HOME), str(TESTS)]),
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        **more,
    }


def run_all(commands: Sequence[tuple[Sequence[str], dict[str, str]]], folder: Path) -> list[int]:
    """Run commands at the same time, each in a process group that does not outlive this call.

    What they print goes to ``<n>.log`` in `folder`.

    Args:
        commands: Arguments of each, and what its environment has besides.

    Returns:
        Their exit statuses; -9 for one that was cut off after `SECONDS`.
    """
    processes: list[subprocess.Popen[bytes]] = []
    end = time.monotonic() + SECONDS
    try:
        for i, (command, more) in enumerate(commands):
            with (folder / f"{i}.log").open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        list(command),
                        env=environment(**more),
                        cwd=folder,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
        return [_status(process, end) for process in processes]
    finally:
        for process in processes:
            _end(process)


def run_modules(
    modules: Sequence[tuple[str, Sequence[str], dict[str, str]]], folder: Path
) -> list[int]:
    """Do what `run_all` does for modules: in forks of a process that has imported torch.

    Args:
        modules: Name and arguments of each, and what its environment has besides.
    """
    commands = []
    for i, (name, more, own) in enumerate(modules):
        log = str(folder / f"{i}.log")
        commands.append(
            warm.Command(["-m", name, *more], str(folder), environment(**own), log, log)
        )
    return warm.run_all(commands, SECONDS)


def _status(process: subprocess.Popen[bytes], end: float) -> int:
    try:
        return process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def logs(folder: Path) -> str:
    """Return the last lines that each process printed."""
    return "\n".join(
        f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-40:])
        for path in sorted(folder.glob("*.log"))
    )


class Outcome:
    """What the scenarios of one launch returned."""

    def __init__(self, folder: Path, ranks: int) -> None:
        self.folder = folder
        self.ranks = ranks

    def of(self, scenario: str) -> list[Any]:
        """Return a scenario's result on each rank."""
        return [self._read(scenario, rank, self.ranks) for rank in range(self.ranks)]

    def alone(self, scenario: str) -> Any:
        """Return a scenario's result in one process."""
        return self._read(scenario, 0, 1)

    def _read(self, scenario: str, rank: int, ranks: int) -> Any:
        path = result_file(self.folder, scenario, rank, ranks)
        if not path.exists():
            pytest.fail(f"rank {rank} of {ranks} did not finish {scenario}\n{logs(self.folder)}")
        return json.loads(path.read_text())


def once(name: str, factory: pytest.TempPathFactory, start: Callable[[Path], object]) -> Path:
    """Return the folder that `start` fills, after the first test that asks had it filled.

    Tests that run side by side share it, whichever worker they run in.
    """
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / f"distributed-{name}"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "started").exists():
            (folder / "started").touch()
            start(folder)
    return folder


def launch(group: str, factory: pytest.TempPathFactory, ranks: int = 2) -> Outcome:
    """Run a group of scenarios, unless a test has had it run before."""

    def start(folder: Path) -> None:
        seats = [(group, str(rank), str(ranks), str(folder)) for rank in range(ranks)]
        run_modules(
            [("distributed.worker", seat, {"LOCAL_RANK": seat[1]}) for seat in seats], folder
        )

    return Outcome(once(group, factory, start), ranks)


def python(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module in a fresh interpreter; its warnings are errors."""
    return [sys.executable, "-W", "error", "-m", module, *arguments]
