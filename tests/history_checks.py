"""What the tests of the history share: a finding, and what it means that two histories agree."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.record import Record


def finding(code: str, first: int, last: int, value: float = 0.5) -> Finding:
    """Return a finding first and last seen at these steps."""
    evidence = Evidence(value, 0.25, 5000, 12)
    return Finding(code, "bad", "What.", "Do.", ("net.1/relu#0",), (first, last), evidence)


def same(written: float, read: float) -> bool:
    """Say whether a number is what was written, to the 6 digits that the file keeps."""
    if math.isnan(written) or math.isnan(read):
        return math.isnan(written) and math.isnan(read)
    if written.is_integer() and abs(written) <= 2**53:
        return written == read
    return math.isclose(written, read, rel_tol=5.0001e-6, abs_tol=0.0)


def same_lists(written: list[float], read: list[float]) -> bool:
    return len(written) == len(read) and all(map(same, written, read))


def same_tables(
    written: Mapping[str, Mapping[str, float]], read: Mapping[str, Mapping[str, float]]
) -> bool:
    return {m: list(v) for m, v in written.items()} == {
        m: list(v) for m, v in read.items()
    } and all(same_lists(list(written[m].values()), list(read[m].values())) for m in written)


def assert_agree(memory: History, file: History) -> None:
    """Assert that two histories show the same through every part of the public surface."""
    assert memory.steps == file.steps
    assert len(memory) == len(file) == len(memory.steps)
    assert memory.metrics() == file.metrics()
    assert memory.meta == file.meta
    assert repr(memory.findings) == repr(file.findings)
    for metric in memory.metrics():
        assert memory.places(metric) == file.places(metric)
        assert same_tables({"": memory.last(metric)}, {"": file.last(metric)})
        windows = memory.window(metric, 3), file.window(metric, 3)
        assert [step for step, _ in windows[0]] == [step for step, _ in windows[1]]
        for place in memory.places(metric):
            one, other = memory.series(metric, place), file.series(metric, place)
            assert one.steps == other.steps
            assert same_lists(one.values, other.values)
            lists = memory.lists(metric, place), file.lists(metric, place)
            assert [step for step, _ in lists[0]] == [step for step, _ in lists[1]]
            assert all(same_lists(a, b) for (_, a), (_, b) in zip(*lists, strict=True))
    for a, b in zip(memory.records(), file.records(), strict=True):
        assert (a.step, a.epoch, a.optimizer_steps) == (b.step, b.epoch, b.optimizer_steps)
        assert math.isclose(a.seconds, b.seconds, rel_tol=0, abs_tol=0.000501)
        assert same_tables(a.values, b.values)
        assert {m: len(v) for m, v in a.dense.items()} == {m: len(v) for m, v in b.dense.items()}
        assert all(same_lists(list(a.dense[m]), list(b.dense[m])) for m in a.dense)
        assert {m: list(v) for m, v in a.lists.items()} == {m: list(v) for m, v in b.lists.items()}


def record(step: int, value: float = 1.0, every: int = 1) -> Record:
    """Return a record of one number and of the losses since the last one."""
    losses = [float(s) for s in range(step - every + 1, step + 1)]
    return Record(step=step, values={"m": {"a": value}}, dense={"loss/train": losses})


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, *steps: int) -> History:
    with History(path) as history:
        history.update_meta({"trainer": {"precision": "32"}})
        for step in steps:
            history.append(record(step, step + 0.5))
    return history
