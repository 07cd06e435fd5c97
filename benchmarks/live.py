"""One training in a process of its own, so that no variant can disturb another one.

Started by `overhead.py` with one JSON argument. It obeys the commands on standard input (see
`turns.py`); what the training prints goes to a file.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any, TextIO, cast

from turns import Turns, write_line

SEED = 1
BATCHES = 8


def resident_megabytes(field: str) -> float:
    """Return `VmRSS` (now) or `VmHWM` (the peak) of this process, the peak of ever elsewhere."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def forget_peak() -> None:
    """Let `VmHWM` start again from what is resident now."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        warnings.warn("The peak of memory includes what importing took.", stacklevel=2)


class Memory:
    """Memory that training took, in megabytes: of the process, or of the GPU's allocator."""

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        if not self._cuda:
            forget_peak()
            self._before = resident_megabytes("VmRSS")

    def peak(self) -> float:
        """Return the peak since the start."""
        if self._cuda:
            import torch

            return torch.cuda.max_memory_allocated() / 2**20
        return resident_megabytes("VmHWM") - self._before


def keep_channel(log: Path) -> TextIO:
    """Send everything that is printed to a file, and return the old standard output."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    return channel


def train(options: dict[str, Any], channel: TextIO) -> dict[str, Any]:
    """Train until told to stop, and return what is known at the end."""
    import torch
    from affinity import spread_threads
    from lightning.pytorch import Trainer
    from variants import VARIANTS
    from workloads import WORKLOADS

    device, folder = options["device"], Path(options["folder"])
    workload = WORKLOADS[options["size"]][options["workload"]]
    task = workload.task(SEED)
    extras = VARIANTS[options["variant"]].build(task, folder)
    trainer = Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        precision=workload.precision,
        max_epochs=1,
        logger=extras.logger,
        callbacks=extras.callbacks,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    turns = Turns(
        workload.batches(SEED, BATCHES, device),
        sys.stdin,
        channel,
        now=time.process_time if options["clock"] == "cpu" else time.perf_counter,
        synchronize=torch.cuda.synchronize if device == "cuda" else lambda: None,
        stop=lambda: setattr(trainer, "should_stop", True),
    )
    if device == "cpu":
        spread_threads(options["threads"])
    memory = Memory(device)
    write_line({"ready": True}, channel)
    trainer.fit(task, cast("Any", turns))
    return {"peak_megabytes": memory.peak(), "watched": extras.watched_steps()}


def main() -> None:
    """Train as the argument says."""
    options = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    channel = keep_channel(Path(options["folder"]) / "log.txt")
    write_line(train(options, channel), channel)


if __name__ == "__main__":
    main()
