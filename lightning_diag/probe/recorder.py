"""Where records go: the history on every rank, its file and the loggers on the first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_diag.history import History
from lightning_diag.loggers import write
from lightning_diag.loggers.table import place_table
from lightning_diag.record import Record
from lightning_diag.warning import warn

FOLDER = "lightning_diag"
HISTORY_FILE = "history.jsonl"


class Recorder:
    """Keeps the history of a run and passes scalars on to the trainer's loggers.

    Args:
        folder: Where the file goes; None keeps the history in memory alone.
        loggers: The trainer's loggers; empty on all ranks but the first.
        old: Folder of the history to go on with, if there is one.
        step: The first step that will be taken (again).
    """

    def __init__(
        self, folder: Path | None, loggers: Sequence[Any], old: str | None = None, step: int = 0
    ) -> None:
        self._loggers = list(loggers)
        self._declared = False
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

    def keep(self, record: Record) -> None:
        """Append to the history."""
        self.history.append(record)

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Send scalars to all loggers; the first time with every name, so that tables have it."""
        shown = {
            f"diag/{name}": value
            for name, value in scalars.items()
            if not self._declared or not math.isnan(value)
        }
        if self._loggers and shown:
            write.scalars(self._loggers, shown, step)
            self._declared = True

    def show_histograms(self, record: Record, step: int) -> None:
        """Send the histograms of the first and the last call to loggers that show any."""
        found = record.lists.get("activation/histogram", {})
        if self._loggers and found:
            ends = {"first": next(iter(found)), "last": list(found)[-1]}
            named = {f"diag/activation/histogram_{end}": found[at] for end, at in ends.items()}
            write.histograms(self._loggers, named, step)

    def show_table(self, step: int) -> None:
        """Send the newest numbers of every place, as one object, to loggers that show any."""
        if self._loggers and len(self.history) > 0:
            write.table(self._loggers, "diag/places", *place_table(self.history), step)

    def close(self) -> None:
        """Close the file."""
        self.history.close()


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
