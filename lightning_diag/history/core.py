"""`History`: the records of a run, their metadata and the findings on them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lightning_diag.finding import Finding
from lightning_diag.history import lines, table, text
from lightning_diag.history.again import again
from lightning_diag.history.curve import Series, Stretch
from lightning_diag.history.file import HistoryFile, find
from lightning_diag.history.memory import Memory
from lightning_diag.record import Record, Values

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from typing_extensions import Self


class History:
    """Every watched number of a run, in memory and, given a path, in a file.

    Both hold the same and are bounded. Past a limit the run is thinned to half of it: the first
    16 records stay, the newest ones, and the newest of each metric; of the others the most closely
    spaced lose every second, again and again. Of a dense metric the newest steps stay, those of
    the records kept, and an even spread of the others; of what was noted between records the
    newest and an even spread.

    A step that comes again supersedes what was known of it and of later ones. Empty mappings and
    sequences count as absent. A file that cannot be written never stops a training: the history
    warns once with `DiagWarning` and goes on in memory only. Only the process that made the
    history writes: forked children and copies keep theirs in memory.

    Args:
        path: File to append to; a history in it is read first. None keeps all in memory.
        max_bytes: Limit of the file, at least 1. The newest record is written even if it is larger.
        max_numbers: Limit in memory in numbers of 8 bytes, at least 1. A record counts for 40
            besides its own, a list for 20, a step of a dense metric or a noted number for 2.

    Raises:
        ValueError: If a limit is below 1, if the file at `path` is no history, or if a newer
            version wrote it.

    Example:
        >>> history = History()
        >>> history.append(Record(step=0, values={"gradient/norm": {"net.0.weight": 0.5}}))
        >>> history.append(Record(step=50, values={"gradient/norm": {"net.0.weight": 0.25}}))
        >>> history.series("gradient/norm", "net.0.weight")
        Series(steps=[0, 50], values=[0.5, 0.25])
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        max_bytes: int = 64_000_000,
        max_numbers: int = 4_000_000,
    ) -> None:
        for name, limit in (("max_bytes", max_bytes), ("max_numbers", max_numbers)):
            if limit < 1:
                raise ValueError(f"`{name}` must be at least 1, got {limit}.")
        self._max_bytes, self._max_numbers = max_bytes, max_numbers
        self._memory = Memory()
        self._file: HistoryFile | None = None
        self._limit = max_bytes
        self._spare = 0
        if path is not None:
            self._attach(Path(path))

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> History:
        """Return what a file holds, also while it is being written and after a crash.

        What is appended to the returned history stays in memory.

        Args:
            path: A history file, the log folder of a run, or a folder of several (the one
                written last).

        Raises:
            FileNotFoundError: If there is no history at `path`.
            ValueError: If the file is no history, or if a newer version wrote it.
        """
        history = cls(max_numbers=1 << 62)
        try:
            lines.read_all(find(path), history._memory)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            # On a network file system the writer replaced the file while it was read.
            history._memory = Memory()
            lines.read_all(find(path), history._memory)
        return history

    @classmethod
    def continue_from(
        cls,
        old_path: str | os.PathLike[str],
        new_path: str | os.PathLike[str],
        step: int,
        *,
        max_bytes: int = 64_000_000,
        max_numbers: int = 4_000_000,
    ) -> History:
        """Return the history of a run that goes on from a checkpoint, in the same file or another.

        Args:
            old_path: File of the earlier run, or a folder that holds it. Left as it is, unless
                it is `new_path`.
            new_path: File to go on in. Another history there is replaced.
            step: First step that will be taken again.
            max_bytes: As for `History`.
            max_numbers: As for `History`.

        Raises:
            FileNotFoundError: If there is no history at `old_path`.
            ValueError: If the earlier file is no history, or if a newer version wrote it.
        """
        old, new = find(old_path), Path(new_path)
        if new.exists() and old.samefile(new):
            history = cls(new, max_bytes=max_bytes, max_numbers=max_numbers)
            history.resume(step)
            return history
        history = cls(max_bytes=max_bytes, max_numbers=max_numbers)
        history._memory = cls.open(old)._memory
        history._memory.forget(step)
        history._file = HistoryFile(_checked(new))
        history._file.open()
        history._rewrite()
        return history

    @property
    def meta(self) -> dict[str, Any]:
        """What the places are, merged from all that was said of it."""
        return self._memory.meta

    def update_meta(self, meta: Mapping[str, Any]) -> None:
        """Merge keys into `meta`, as JSON holds them: tuples become lists, objects text."""
        added = text.plain(meta)
        self._memory.meta.update(added)
        self._write(b"", text.line("meta", added))

    def append(self, record: Record) -> None:
        """Add the record of a step; a step that is not newer supersedes those from it on."""
        memory = self._memory
        row = memory.row(record)
        dense = {m: Stretch.ending(row.step, v) for m, v in record.dense.items() if len(v)}
        if memory.rows and row.step <= memory.rows[-1].step:
            self.resume(row.step)
        memory.add(row, dense)
        changes = memory.layout.take_changes()
        layout = text.line("layout", changes) if changes else b""
        if self._file is not None:
            self._write(text.record_line(row, dense), layout)
        if memory.cost > self._max_numbers:
            self._thin()

    def note(self, step: int, values: Values) -> None:
        """Add numbers measured between two records, such as those of a validation.

        They belong to the optimizer step that was taken last. A place gets its numbers from
        records or from notes, and `series`, `window` and `last` show both alike.

        Example:
            >>> history = History()
            >>> history.note(99, {"validation/val_loss": {"": 0.5}})
            >>> history.series("validation/val_loss")
            Series(steps=[99], values=[0.5])
        """
        found = {metric: dict(places) for metric, places in values.items() if places}
        if not found:
            return
        memory = self._memory
        memory.note(step, found)
        changes = memory.layout.take_changes()
        layout = text.line("layout", changes) if changes else b""
        self._write(text.line("note", {"step": step, "values": found}), layout)
        if memory.cost > self._max_numbers:
            self._thin()

    def show(self, name: str, place: str, step: int, content: object) -> None:
        """Add what people look at rather than plot, such as pictures, of a step.

        Of each name and place the first stay, the newest, and some in between: 16 in all.

        Args:
            name: As that of a metric, such as ``filter/pixels``.
            place: As that of a metric.
            step: The optimizer step that it belongs to; from it on it supersedes what was shown.
            content: Plain values, as JSON holds them; what JSON cannot hold becomes text.

        Example:
            >>> history = History()
            >>> history.show("filter/pixels", "net.0.weight", 0, {"shape": [1, 1, 1], "pixels": ""})
            >>> history.shown("filter/pixels")["net.0.weight"][0]
            (0, {'shape': [1, 1, 1], 'pixels': ''})
        """
        known = text.plain(content)
        self._memory.shelf.put(name, place, step, known)
        self._write(b"", text.shown_line(name, place, step, known))

    def shown(self, name: str) -> dict[str, list[tuple[int, Any]]]:
        """Return step and content of all that is shown by a name, by place, oldest first."""
        return self._memory.shelf.of(name)

    def resume(self, step: int) -> None:
        """Forget what is known of a step and of later ones, since they will be taken again.

        Findings first seen there are forgotten too.
        """
        if self._memory.forget(step):
            self._write(text.line("resume", step))

    def add_finding(self, finding: Finding) -> None:
        """Add a finding, or the newer version of the one that has its code."""
        if self._memory.findings.get(finding.code) != finding:
            self._memory.findings[finding.code] = finding
            self._write(b"", text.line("finding", finding.to_dict()))

    @property
    def findings(self) -> list[Finding]:
        """The latest version of each finding, in order of first appearance."""
        return list(self._memory.findings.values())

    def __len__(self) -> int:
        return len(self._memory.rows)

    @property
    def steps(self) -> list[int]:
        """Steps of the records kept, ascending."""
        return [row.step for row in self._memory.rows]

    def metrics(self) -> list[str]:
        """Return the names of all metrics, in order of first appearance."""
        return self._memory.layout.metrics()

    def places(self, metric: str) -> list[str]:
        """Return all places of a metric, in order of first appearance; [] when it is unknown."""
        return self._memory.layout.places(metric)

    def series(self, metric: str, place: str = "") -> Series:
        """Return one place's numbers over the run; of a dense metric one for each step kept."""
        return self._memory.series(metric, place)

    def window(self, metric: str, n: int) -> list[tuple[int, dict[str, float]]]:
        """Return step and numbers by place of the newest `n` records or notes that hold a metric.

        Oldest first. Of a dense metric: the newest `n` steps.
        """
        return self._memory.window(metric, n)

    def last(self, metric: str) -> dict[str, float]:
        """Return the newest numbers of a metric by place; {} when it was never observed.

        Those of the newest record that holds it, and of each place that is noted between records.
        """
        return self._memory.last(metric)

    def lists(self, metric: str, place: str, n: int | None = None) -> list[tuple[int, list[float]]]:
        """Return step and list, oldest first, of a metric whose values are lists: the newest `n`.

        All of them if `n` is None.
        """
        return self._memory.lists(metric, place, n)

    def marks(self) -> Iterator[tuple[int, int, float]]:
        """Yield step, epoch and seconds of the records kept, oldest first."""
        return ((row.step, row.epoch, row.seconds) for row in self._memory.rows)

    def columns(self, metric: str) -> Iterator[tuple[int, Sequence[int], Sequence[float]]]:
        """Yield the numbers of a metric record by record, oldest first, without naming places.

        Step, positions in `places(metric)`, ascending, and a number for each of them: much faster
        than `records` where there are many places.
        """
        for row in self._memory.rows:
            if metric in row.shape.indices:
                yield row.step, row.shape.indices[metric], row.column(metric)

    def again(self) -> Iterator[tuple[History, Record | None]]:
        """Yield the history as it was after each record and each note, and what came last.

        It is one history that grows; None stands for a note. The records' lists are left out, for
        the history has them, and what thinning took away is missing.
        """
        growing = History(max_numbers=1 << 62)
        # The same objects: whoever keeps what follows from them sees that they have not changed.
        growing.meta.update(self.meta)
        for record in again(self._memory, growing._memory):
            yield growing, record

    def records(self) -> Iterator[Record]:
        """Yield the records kept, oldest first.

        Dense values are the unbroken run of steps that ends with the record's own; where
        thinning left gaps, `series` has more.
        """
        previous: int | None = None
        for row in list(self._memory.rows):
            yield self._memory.record(row, previous)
            previous = row.step

    def to_pandas(self, metric: str) -> pd.DataFrame:
        """Return a metric as a data frame: a row for each step, a column for each place.

        What was not observed is NaN. Of a metric whose values are lists, cells hold lists.

        Raises:
            ImportError: If pandas is not installed.
        """
        return table.to_pandas(self._memory, metric)

    def to_arrow(self) -> pa.Table:
        """Return all numbers as one long Arrow table, a row for each that was observed.

        Its columns are `step`, `epoch`, `seconds`, `metric`, `place` and `value`; rows are in
        order of metric, place and step. Epoch and seconds are null at steps without a record.
        Metrics whose values are lists are left out: see `lists`.

        Raises:
            ImportError: If pyarrow is not installed.
        """
        return table.to_arrow(self._memory)

    def close(self) -> None:
        """Close the file. The numbers stay readable, and appending opens it again."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def _attach(self, path: Path) -> None:
        self._file = HistoryFile(path)
        end = 0
        with self._file.or_stop():
            if _checked(path).exists():
                end, self._spare = lines.read_all(path, self._memory)
            self._file.open(end)
        if end == 0:
            self._write(lines.FIRST_LINE)

    def _write(self, data: bytes, spare: bytes = b"") -> None:
        """Append lines to the file; `spare` goes first, and the next rewriting may save it."""
        if self._file is None or not self._file.writable:
            return
        size = len(spare) + len(data)
        if self._file.size + size > self._limit:
            self._thin()
            return
        self._file.append(spare + data, lambda: lines.write_all(self._memory))
        self._spare += len(spare)

    def _thin(self) -> None:
        cost = self._memory.cost
        if cost > self._max_numbers or self._spare < self._max_bytes // 4:
            self._memory.drop(cost // 2)
        self._rewrite()

    def _rewrite(self) -> None:
        while self._file is not None and self._file.writable:
            self._file.replace(lines.write_all(self._memory))
            self._limit, self._spare = self._max_bytes, 0
            if self._file.size <= self._max_bytes * 3 // 4:
                break
            cost = self._memory.cost
            self._memory.drop(cost // 2)
            if self._memory.cost == cost:
                # What cannot be thinned must not cause a rewriting for each line that follows.
                self._limit = max(self._max_bytes, 2 * self._file.size)
                break


def _checked(path: Path) -> Path:
    if path.is_dir():
        raise ValueError(f"The path of a history must be a file, got the folder {str(path)!r}.")
    return path
