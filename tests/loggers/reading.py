"""Reads back what an offline run of W&B has written."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK, _HEADER, _START = 32768, 7, 7


def records(path: Path) -> Iterator[Any]:
    """Yield the records of a `.wandb` file: LevelDB's log format, Protobuf within."""
    from wandb.proto import wandb_internal_pb2

    new_record: Any = vars(wandb_internal_pb2)["Record"]
    raw, offset, buffer = path.read_bytes(), _START, b""
    while offset + _HEADER <= len(raw):
        if _BLOCK - offset % _BLOCK < _HEADER:
            offset += _BLOCK - offset % _BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", raw[offset : offset + _HEADER])
        part = raw[offset + _HEADER : offset + _HEADER + length]
        offset += _HEADER + length
        if kind == 0 and length == 0:
            return
        buffer = part if kind in (1, 2) else buffer + part
        if kind in (1, 4):
            record = new_record()
            record.ParseFromString(buffer)
            yield record


def run_file(folder: Path) -> Path:
    """Return the file of the only offline run below a folder."""
    (path,) = folder.glob("wandb/*run-*/*.wandb")
    return path


def _of_kind(path: Path, kind: str) -> list[Any]:
    return [
        getattr(record, kind)
        for record in records(path)
        if record.WhichOneof("record_type") == kind
    ]


def rows(path: Path) -> list[dict[str, Any]]:
    """Return all that was logged, row by row."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item}
        for row in _of_kind(path, "history")
    ]


def alerts(path: Path) -> list[tuple[str, str, str]]:
    """Return title, text and level of each alert."""
    return [(alert.title, alert.text, alert.level) for alert in _of_kind(path, "alert")]


def artifacts(path: Path) -> list[Any]:
    """Return the artifacts of the run."""
    return [
        request.log_artifact.artifact
        if (request := record.request).WhichOneof("request_type") == "log_artifact"
        else record.artifact
        for record in records(path)
        if record.WhichOneof("record_type") == "artifact"
        or (
            record.WhichOneof("record_type") == "request"
            and record.request.WhichOneof("request_type") == "log_artifact"
        )
    ]


def axes(path: Path) -> dict[str, str]:
    """Return the x axis of each metric that has one of its own, by name or pattern."""
    return {
        metric.name or metric.glob_name: metric.step_metric for metric in _of_kind(path, "metric")
    }


def summary(path: Path) -> dict[str, Any]:
    """Return the run's summary as updated last."""
    found: dict[str, Any] = {}
    for update in _of_kind(path, "summary"):
        for item in update.update:
            found[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    return found


def tags(path: Path) -> list[str]:
    """Return the run's tags as set last."""
    found: list[str] = []
    for run in _of_kind(path, "run"):
        found = list(run.tags) or found
    return found
