"""Which processor a thread runs on, so that two threads of one training never share one."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def _threads() -> set[int]:
    return {int(entry.name) for entry in Path("/proc/self/task").iterdir()}


def spread_threads(count: int) -> None:
    """Give this thread and each of torch's workers a processor of its own, where Linux allows it.

    Threads that spin at a barrier while the one they wait for is not running make a step take
    seconds; the scheduler puts them so when something else wants a processor.

    The last processors are taken, since most systems do their own work on the first. Threads and
    processes that exist already, such as those of a logger, stay free.

    Args:
        count: Threads that torch computes with, this one included.
    """
    torch.set_num_threads(count)
    if not hasattr(os, "sched_setaffinity") or count > len(os.sched_getaffinity(0)):
        return
    before = _threads()
    torch.ones(1_000_000).add_(1)
    workers = sorted(_threads() - before)
    places = sorted(os.sched_getaffinity(0))[-count:]
    for thread, place in zip([0, *workers], places, strict=False):
        os.sched_setaffinity(thread, {place})
