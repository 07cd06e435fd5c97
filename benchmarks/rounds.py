"""Run all variants of a workload side by side, a few steps at a time, in random order."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from arithmetic import masks_of
from variants import VARIANTS
from workloads import WORKLOADS, Size

HERE = Path(__file__).resolve().parent

PERIOD = 50
"""Steps in a block: what happens every 50 steps happens once in each."""

SLICE = 10
"""Steps that a training takes at a time on a CPU. Short, so that all variants see the machine in
the same mood; on a GPU a slice is a block, since at its end the program waits for the device."""

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}
"""Keeps glibc from giving memory back and asking for it again. Whether it does, by its defaults,
hangs on what happens to lie at the end of the heap: one bare training has 46 page faults a step,
and the next, which is the same, has 6."""


@dataclass(frozen=True)
class Plan:
    """What to run."""

    size: Size
    """Row of `WORKLOADS`."""
    device: str
    """`cpu` or `cuda`."""
    threads: int
    """Threads of each training; only one of them runs at a time."""
    rounds: int
    """Blocks that each variant is timed for in one launch."""
    launches: int
    """How often all processes are started anew: where a process's memory happens to lie makes it
    some percent faster or slower for all its life."""
    clock: str
    """`wall`, or `cpu` for the process's own processor time."""
    seconds: float
    """Begin no further round after this many seconds of rounds in one launch."""
    warm_up: float = 1.0
    """Factor on the steps that each variant takes before the first round."""


@dataclass
class Measured:
    """What one variant's training told."""

    blocks: list[list[float]] = field(default_factory=list)
    """Seconds by round and position in the block."""
    masks: list[list[bool]] | None = None
    """Which of these steps were watched, None where that is not told apart."""
    counts: list[tuple[int, int]] = field(default_factory=list)
    """Tensor operations and Python calls of each counted step."""
    peak_megabytes: float = math.inf
    """Memory that training took, at its peak."""
    problem: str | None = None
    """Why there are no numbers."""

    def extend(self, other: Measured) -> None:
        """Add what another launch told."""
        self.blocks += other.blocks
        if other.masks is not None:
            self.masks = [*(self.masks or []), *other.masks]
        self.counts = other.counts or self.counts
        # what importing and compiling leave behind differs by chance, and never makes it less
        self.peak_megabytes = min(self.peak_megabytes, other.peak_megabytes)
        self.problem = self.problem or other.problem


class Live:
    """A variant's training, alive in a process of its own."""

    def __init__(self, plan: Plan, workload: str, variant: str, folder: Path) -> None:
        self.measured = Measured()
        self._first_steps: list[int] = []
        self._log = folder / "log.txt"
        folder.mkdir(parents=True)
        options = {
            "size": plan.size,
            "device": plan.device,
            "threads": plan.threads,
            "clock": plan.clock,
            "workload": workload,
            "variant": variant,
            "folder": str(folder),
        }
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "live.py"), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ALLOCATOR, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    @property
    def healthy(self) -> bool:
        """Whether it goes on."""
        return self.measured.problem is None

    def read(self) -> dict[str, Any]:
        """Wait for one answer; an empty one says that the process is gone."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        self._process.wait()
        log = self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""
        self.measured.problem = (log.strip().splitlines() or ["no output"])[-1]
        return {}

    def _ask(self, **command: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        return self.read()

    def advance(self, steps: int) -> None:
        """Train without keeping the times."""
        if self.healthy:
            self._ask(steps=steps)

    def time_slice(self, steps: int) -> None:
        """Train for a slice of a block and keep the times."""
        blocks = self.measured.blocks
        begins = not blocks or len(blocks[-1]) == PERIOD
        if self.healthy and (answer := self._ask(steps=steps, collect=begins)):
            if begins:
                blocks.append([])
                self._first_steps.append(answer["first"])
            blocks[-1] += answer["seconds"]

    def count_block(self) -> None:
        """Train for one block and count what it does."""
        if self.healthy and (answer := self._ask(steps=PERIOD, count=True)):
            self.measured.counts = [(tensor, python) for tensor, python in answer["counts"]]

    def finish(self) -> Measured:
        """End the training and return what is known of it."""
        if self.healthy and (answer := self._ask()):
            self.measured.peak_megabytes = answer["peak_megabytes"]
            if answer["watched"] is not None:
                self.measured.masks = masks_of(self._first_steps, PERIOD, answer["watched"])
            self._process.wait()
        return self.measured

    def kill(self) -> None:
        """End the process whatever it does."""
        self._process.kill()
        self._process.communicate()


def measure(plan: Plan, workload: str, names: list[str], folder: Path) -> dict[str, Measured]:
    """Train one workload in all variants, and return what each told."""
    results = {name: Measured() for name in names}
    for name in names:
        if missing := VARIANTS[name].missing():
            results[name].problem = f"not installed: {', '.join(missing)}"
    for launch in range(plan.launches):
        going = [name for name in names if results[name].problem is None]
        for name, told in _launch(plan, workload, going, folder / workload / str(launch)).items():
            results[name].extend(told)
    return results


def _launch(plan: Plan, workload: str, names: list[str], folder: Path) -> dict[str, Measured]:
    lives = {name: Live(plan, workload, name, folder / name) for name in names}
    try:
        for live in lives.values():
            live.read()
        for name, live in lives.items():
            live.advance(PERIOD * max(1, round(plan.warm_up * VARIANTS[name].warm_up / PERIOD)))
        rounds = plan.rounds * WORKLOADS[plan.size][workload].more_rounds
        _rounds(plan, rounds, list(lives.values()))
        return {name: live.finish() for name, live in lives.items()}
    finally:
        for live in lives.values():
            live.kill()


def _rounds(plan: Plan, rounds: int, lives: list[Live]) -> None:
    order = random.Random(0)
    steps = SLICE if plan.device == "cpu" else PERIOD
    end = perf_counter() + plan.seconds
    for done in range(rounds):
        if done and perf_counter() > end:
            break
        for _ in range(PERIOD // steps):
            for live in order.sample(lives, len(lives)):
                live.time_slice(steps)
    for live in lives:
        live.count_block()
