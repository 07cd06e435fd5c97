"""What a fit under observation starts from: a budget, an earlier run, a place to write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_diag.measure.tally import Tally
from lightning_diag.probe.observer import WatcherLike
from lightning_diag.probe.recorder import Recorder, history_folder
from lightning_diag.probe.run import Run
from lightning_diag.probe.schedule import Budget


def joint_budget(run: Run, watchers: Sequence[WatcherLike]) -> Budget:
    """Make one budget of all watchers' wishes: the most frequent, the cheapest."""
    default = int(run.trainer.log_every_n_steps) or 50
    return Budget(
        every_n_steps=min(watcher.every_n_steps or default for watcher in watchers),
        max_overhead=min(watcher.max_overhead for watcher in watchers),
        startup_seconds=max(watcher.startup_seconds for watcher in watchers),
    )


def earlier_state(run: Run, watchers: Sequence[WatcherLike]) -> dict[str, Any]:
    """Return what the watchers remember of the run that this fit goes on with."""
    if run.trainer.global_step == 0:
        return {}
    states = [dict(watcher.remembered) for watcher in watchers if watcher.remembered]
    return max(states, key=lambda state: int(state["steps"]), default={})


def open_recorder(
    run: Run, watchers: Sequence[WatcherLike], state: Mapping[str, Any], tally: Tally, step: int
) -> Recorder:
    """Open the history: a file on the first rank, the same numbers in memory on the others.

    Every rank must call this: finding the log dir and sharing an earlier history are collective.
    """
    log_dir = run.trainer.log_dir
    chosen = next((w.output_folder for w in watchers if w.output_folder is not None), None)
    parent = chosen or log_dir
    old = state.get("folder")
    recorder = Recorder(None, ())
    if run.is_first_rank:
        writes = parent is not None and not run.trainer.fast_dev_run
        folder = history_folder(Path(str(parent)), old) if writes else None
        recorder = Recorder(folder, run.trainer.loggers, old, step)
    if state:  # on every rank or on none, unlike the folder, which only the first has
        recorder.adopt(tally.share(recorder.history if run.is_first_rank else None))
    return recorder
