"""Between a history's memory and the lines of its file."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lightning_diag.history import text
from lightning_diag.history.memory import Memory
from lightning_diag.warning import DiagWarning

FIRST_LINE = text.line("schema", text.SCHEMA)

_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
"""What a line that is no JSON, or JSON of another kind, may raise."""


class Extent(NamedTuple):
    """How much of a file was read."""

    end: int
    """Bytes of whole lines; what follows is torn."""
    spare: int
    """Bytes of lines other than records and notes: what rewriting the file may save."""


def write_all(memory: Memory) -> Iterator[bytes]:
    """Yield all that is known, as the lines of a file."""
    yield FIRST_LINE
    if memory.meta:
        yield text.line("meta", memory.meta)
    memory.layout.take_changes()
    layout = {metric: memory.layout.places(metric) for metric in memory.layout.metrics()}
    if layout:
        yield text.line("layout", layout)
    previous: int | None = None
    for row in memory.rows:
        yield text.record_line(row, memory.dense(previous, row.step))
        previous = row.step
    rest = memory.dense(previous, None)
    if rest:
        yield text.dense_line(rest)
    for step, values in memory.notes():
        yield text.line("note", {"step": step, "values": values})
    for name, place, at, content in memory.shelf:
        yield text.shown_line(name, place, at, content)
    for finding in memory.findings.values():
        yield text.line("finding", finding.to_dict())


def read_all(path: Path, memory: Memory) -> Extent:
    """Read a file; a torn last line is left out, as are lines in between that make no sense.

    Raises:
        ValueError: If the file is no history, or was written by a newer version.
        OSError: If it cannot be read.
    """
    unreadable = []
    with path.open("rb") as file:
        end, spare = _read_first(path, file.readline(4096)), 0
        for i, line in enumerate(file, 2):
            if end == 0 or not line.endswith(b"\n"):
                break
            end += len(line)
            spare += 0 if line.startswith((b'{"record"', b'{"note"')) else len(line)
            try:
                _apply(json.loads(line), memory)
            except _UNREADABLE:
                unreadable.append(i)
    memory.layout.take_changes()
    if unreadable:
        warnings.warn(
            f"{len(unreadable)} of the lines of {str(path)!r} cannot be read and were left out, "
            f"the first of them is line {unreadable[0]}.",
            DiagWarning,
            stacklevel=3,
        )
    return Extent(end, spare)


def _read_first(path: Path, line: bytes) -> int:
    """Check the first line and return its length, 0 if it is torn or not written yet."""
    if len(line) < len(FIRST_LINE) and FIRST_LINE.startswith(line):
        return 0
    try:
        schema = int(json.loads(line)["schema"]) if line.endswith(b"\n") else 0
    except _UNREADABLE:
        schema = 0
    if schema < 1:
        raise ValueError(f"{str(path)!r} is not a history file: its first line names no schema.")
    if schema > text.SCHEMA:
        raise ValueError(
            f"{str(path)!r} has schema {schema} and this lightning_diag reads up to schema "
            f"{text.SCHEMA}; update lightning_diag to read it."
        )
    return len(line)


def _apply(line: Mapping[str, Any], memory: Memory) -> None:
    """Take a line into memory. Kinds that are unknown are for newer readers of this schema."""
    for kind, content in line.items():
        if kind == "record":
            _apply_record(content, memory)
        elif kind == "layout":
            memory.layout.add_all(content)
        elif kind == "dense":
            memory.add_dense(text.parse_dense(content, -1))
        elif kind == "note":
            memory.note(int(content["step"]), text.parse_note(content["values"]))
        elif kind == "resume":
            memory.forget(int(content))
        elif kind == "meta":
            memory.meta.update(text.parse_meta(content))
        elif kind == "shown":
            memory.shelf.put_line(content)
        elif kind == "finding":
            finding = text.parse_finding(content)
            memory.findings[finding.code] = finding


def _apply_record(content: Mapping[str, Any], memory: Memory) -> None:
    row = text.parse_record(content, memory.layout)
    dense = text.parse_dense(content.get("dense", {}), row.step)
    if memory.rows and row.step <= memory.rows[-1].step:
        memory.forget(row.step)
    memory.add(row, dense)
