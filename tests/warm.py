"""A process that has imported torch; others are forked from it, and have Lightning at once.

Imports take longer than most of what tests start processes for, and nearly all of that is torch
and what belongs to it. Neither Lightning nor this package is imported beforehand.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, NamedTuple

POLL = 0.01
"""Seconds between looks at the processes."""
IS_POSSIBLE = sys.platform == "linux"
"""Elsewhere, libraries that a process has imported do not all survive a fork."""


class Command(NamedTuple):
    """What one process runs."""

    arguments: Sequence[str]
    """What would follow after ``python``: ``-m MODULE``, ``-c CODE`` or a path."""
    folder: str
    """Where it runs."""
    environment: Mapping[str, str]
    out: str
    """File that gets what it prints."""
    err: str
    """File that gets what it complains about; may be the same."""
    strict: bool = True
    """Whether warnings are errors."""


def run_python(
    arguments: Sequence[str],
    folder: str | Path,
    environment: Mapping[str, str],
    *,
    seconds: float = 100,
    strict: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run Python with some arguments."""
    with TemporaryDirectory() as place:
        out, err = Path(place) / "out", Path(place) / "err"
        command = Command(arguments, str(folder), environment, str(out), str(err), strict)
        (status,) = run_all([command], seconds)
        told = out.read_text(errors="replace"), err.read_text(errors="replace")
    return subprocess.CompletedProcess(["python", *arguments], status, *told)


def run_all(commands: Sequence[Command], seconds: float) -> list[int]:
    """Run commands at the same time; return their exit statuses, -9 after so many seconds.

    Whatever they have started is taken down at the end.
    """
    if not IS_POSSIBLE:
        return _run_fresh(commands, seconds)
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        server.stdin.write(json.dumps({"commands": commands, "seconds": seconds}) + "\n")
        server.stdin.flush()
        return [int(status) for status in json.loads(server.stdout.readline())]
    except BaseException:
        server.terminate()
        server.communicate()
        _server.cache_clear()
        raise


def _run_fresh(commands: Sequence[Command], seconds: float) -> list[int]:
    end = time.monotonic() + seconds
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for each in commands:
            with Path(each.out).open("ab") as out, Path(each.err).open("ab") as err:
                process = subprocess.Popen(
                    [sys.executable, *["-W", "error"] * each.strict, *each.arguments],
                    cwd=each.folder,
                    env=dict(each.environment),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
            processes.append(process)
        while any(process.poll() is None for process in processes) and time.monotonic() < end:
            time.sleep(POLL)
    finally:
        for process in processes:
            _kill(process.pid)
    return [process.wait() for process in processes]


@functools.cache
def _server() -> subprocess.Popen[str]:
    """Start the process, once for all tests of a worker."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    server = subprocess.Popen(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-B", __file__],
        env={**kept, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.communicate)
    return server


def serve() -> None:
    """Answer until nobody asks any more; in a process that was forked, do what it is for."""
    gc.freeze()  # what is imported is nobody's rubbish, and stays in memory that all share
    for line in sys.stdin:
        asked = json.loads(line)
        pids: list[int] = []
        for each in asked["commands"]:
            pid = os.fork()
            if pid == 0:
                _become(Command(*each))
                return
            pids.append(pid)
        with _none_outlives(pids):
            statuses = _wait(pids, time.monotonic() + asked["seconds"])
        print(json.dumps(statuses), flush=True)


def _become(command: Command) -> None:
    os.setsid()
    os.chdir(command.folder)
    os.environ.clear()
    os.environ.update(command.environment)
    with Path(command.out).open("ab") as out, Path(command.err).open("ab") as err:
        with Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
    if command.strict:
        sys.warnoptions[:] = ["error"]
        warnings.simplefilter("error")
    paths = command.environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [path for path in paths if path]
    _run(*command.arguments)


def _run(first: str, *rest: str) -> None:
    """Do what Python does with its arguments."""
    if first == "-m":
        sys.path.insert(0, str(Path.cwd()))
        sys.argv = list(rest)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *rest[1:]]
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    else:
        sys.path.insert(0, str(Path(first).resolve().parent))
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")


@contextlib.contextmanager
def _none_outlives(pids: list[int]) -> Iterator[None]:
    """Take down what is left of the sessions at the end, also at that of this process."""
    before: Any = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        for pid in pids:
            _kill(pid)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _wait(pids: list[int], end: float) -> list[int]:
    statuses: dict[int, int] = {}
    while len(statuses) < len(pids):
        late = time.monotonic() > end
        for pid in set(pids) - set(statuses):
            if late:
                _kill(pid)
            done, status = os.waitpid(pid, 0 if late else os.WNOHANG)
            if done:
                statuses[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(POLL)
    return [statuses[pid] for pid in pids]


if __name__ == "__main__":
    for name in ("torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor"):
        importlib.import_module(name)
    importlib.import_module("torchmetrics")  # brings its plotting and signal processing along

    serve()
