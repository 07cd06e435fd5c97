"""Where records go: the history on every rank, its file and the loggers on the first."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_diag.finding import Finding
from lightning_diag.history import History
from lightning_diag.loggers.write import Screens
from lightning_diag.record import Record
from lightning_diag.warning import warn

FOLDER = "lightning_diag"
HISTORY_FILE = "history.jsonl"

_FIRST_DRAWN = 64
"""Our choice: records before loggers first get what is drawn as a whole; then four times as many,
so that a run of any length costs a handful of tables."""


class Recorder:
    """Keeps the history of a run, and shows it in the trainer's loggers.

    Loggers get scalars and histograms of every record. What is drawn anew as a whole, such as the
    table of all layers, they get after 64, 256, 1024 ... records, and at the end.

    Args:
        folder: Where the file goes; None keeps the history in memory alone.
        loggers: The trainer's loggers; empty on all ranks but the first.
        old: Folder of the history to go on with, if there is one.
        step: The first step that will be taken (again).
    """

    def __init__(
        self, folder: Path | None, loggers: Sequence[Any], old: str | None = None, step: int = 0
    ) -> None:
        self._screens = Screens(loggers)
        self._step = step
        self._records = 0
        self._draws_at = _FIRST_DRAWN
        self._is_drawn = True
        self.folder = folder
        self.history = History()
        if folder is not None:
            self._open(folder, old, step)

    def _open(self, folder: Path, old: str | None, step: int) -> None:
        """Go on with the old history if it can be read, begin a new one if not."""
        if old is not None and (Path(old) / HISTORY_FILE).exists():
            try:
                self.history = History.continue_from(
                    Path(old) / HISTORY_FILE, folder / HISTORY_FILE, step
                )
            except (OSError, ValueError) as error:
                warn(f"The history of the run that this one goes on with is left aside: {error}")
                self.folder = folder = history_folder(folder.parent, None)
            else:
                return
        self.history = History(folder / HISTORY_FILE)

    def adopt(self, history: History | None) -> None:
        """On ranks that do not write: go on with the first rank's numbers, in memory."""
        if history is not None and history is not self.history:
            self.history = history

    def keep(self, record: Record, step: int | None = None) -> None:
        """Append to the history.

        Args:
            record: The numbers of a watched step.
            step: The trainer's step for loggers, if they count otherwise.
        """
        self._step = record.step if step is None else step
        self._records += 1
        self._is_drawn = False
        self.history.append(record)

    def log(self, scalars: Mapping[str, float], record: Record) -> float:
        """Send scalars, and histograms of the first and the last place, to all loggers.

        Returns:
            Seconds spent on drawing all layers anew, 0 where that was not due.
        """
        if not self._screens:
            return 0.0
        self._screens.show_record(scalars, _ends(record), self._step)
        if self._records < self._draws_at:
            return 0.0
        self._draws_at *= 4
        began = time.perf_counter()
        self._screens.show_layers(self.history, self._step, last=False)
        return time.perf_counter() - began

    def show_layers(self) -> None:
        """Show all layers as they are at the end, unless that has been done."""
        if self._screens and not self._is_drawn:
            self._is_drawn = True
            self._screens.show_layers(self.history, self._step, last=True)

    def show_findings(self, findings: Sequence[Finding], news: Sequence[Finding]) -> None:
        """Show the verdict by now in the loggers; findings that are news are told of at once."""
        self._screens.show_findings(findings, news, self.history, self._step)

    def show_end(self, findings: Sequence[Finding], page: Path | None) -> None:
        """Show all findings in the loggers, and the page that sums the run up."""
        self._screens.show_end(findings, page, self.history, self._step)

    def close(self) -> None:
        """Show what has not been shown yet, and close the file."""
        self.show_layers()
        self.history.close()


def _ends(record: Record) -> dict[str, Sequence[float]]:
    """Return the histograms of the first and the last place, of each quantity that has any."""
    found: dict[str, Sequence[float]] = {}
    for metric, lists in record.lists.items():
        if metric.endswith("/histogram") and lists:
            found[f"{metric}_first"] = next(iter(lists.values()))
            found[f"{metric}_last"] = list(lists.values())[-1]
    return found


def history_folder(parent: Path, old: str | None) -> Path:
    """Return ``lightning_diag`` below `parent`, or with the first number that is not taken.

    A run that is resumed below the same parent goes on in its old folder.

    Example:
        >>> history_folder(Path("nowhere"), None).name
        'lightning_diag'
    """
    if old is not None and Path(old).parent.absolute() == parent.absolute():
        return Path(old)
    folder, n = parent / FOLDER, 0
    while (folder / HISTORY_FILE).exists():
        n += 1
        folder = parent / f"{FOLDER}-{n}"
    return folder
