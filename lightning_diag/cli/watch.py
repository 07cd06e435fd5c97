"""``lightning-diag watch``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import rich

from lightning_diag.cli.runs import locate
from lightning_diag.history import History
from lightning_diag.report.console import summary
from lightning_diag.report.live import Follower, Plainly, Screen

Sleep = Callable[[float], None]


def run(options: argparse.Namespace) -> int:
    """Follow a run until it ends, or until Ctrl-C."""
    return follow(options.run, options.interval, sleep=time.sleep)


def follow(path: Path, interval: float, *, sleep: Sleep) -> int:
    """Show what is new in a run's history, look after look.

    Args:
        path: The run, which may come later.
        interval: Seconds between two looks.
        sleep: Waits.
    """
    out = rich.get_console()
    with Screen(out) if out.is_terminal else Plainly(out) as view:
        try:
            file = _awaited(path, view.wait, interval, sleep)
            follower = Follower(file)
            while True:
                news = follower.look()
                view.show(follower, news)
                if follower.run.ended:
                    break
                sleep(interval)
        except KeyboardInterrupt:
            return 0
    history = History.open(file)
    summary(history.findings, history, console=out)
    return 0


def _awaited(path: Path, wait: Callable[[str], None], interval: float, sleep: Sleep) -> Path:
    """Return the history file of a run, once there is one."""
    while True:
        try:
            return locate(path)
        except FileNotFoundError:
            wait(f"Waiting for a run at {path} (Ctrl-C ends this)")
            sleep(interval)
