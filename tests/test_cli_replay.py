"""What it takes to judge a stored run again: each number is read once, and none is copied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cli_runs import copy, store
from history_checks import assert_agree
from report_runs import RUNS, make_run

from lightning_diag.cli import main
from lightning_diag.cli.replay import replay
from lightning_diag.history import History, text
from lightning_diag.record import Record
from lightning_diag.rules import default_rules, reading
from lightning_diag.rules.diagnosis import Diagnosis


def counted(monkeypatch: pytest.MonkeyPatch, home: object, name: str) -> list[tuple[object, ...]]:
    """Return the arguments of each call of a function, from now on."""
    calls: list[tuple[object, ...]] = []
    function = getattr(home, name)

    def spy(*words: object, **named: object) -> object:
        calls.append(words)
        return function(*words, **named)

    monkeypatch.setattr(home, name, spy)
    return calls


def written_anew(history: History) -> History:
    """Return what a history would be whose records and notes came one by one."""
    other = History()
    other.update_meta(history.meta)
    notes = list(history._memory.notes())
    for record in history.records():
        while notes and notes[0][0] < record.step:
            other.note(*notes.pop(0))
        other.append(record)
    for note in notes:
        other.note(*note)
    return other


@pytest.mark.parametrize("run", RUNS)
def test_judging_again_reads_each_record_once_and_writes_none(
    tmp_path: Path, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = store(run, tmp_path)
    records = (log / "lightning_diag" / "history.jsonl").read_bytes().count(b'{"record"')
    parsed = counted(monkeypatch, text, "parse_record")
    written = counted(monkeypatch, text, "record_line")
    main(["judge", str(log)])
    assert len(parsed) == records
    assert written == []


def test_a_replay_works_out_once_what_follows_from_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history = make_run(30, 2000)
    orders = counted(monkeypatch, reading, "_depth_profile")
    judged = counted(monkeypatch, Diagnosis, "update")
    replay(history, default_rules())
    assert len(judged) > 50
    # Of the history that grows, and of the whole one at the end.
    assert len(orders) == 2


def test_a_replay_does_not_copy_numbers() -> None:
    history = make_run(5, 100)
    whole = {row.step: row.numbers for row in history._memory.rows}
    for growing, record in history.again():
        assert record is not None
        assert growing._memory.rows[-1].numbers is whole[record.step]


@pytest.mark.parametrize("run", ["healthy", "high-learning-rate"])
def test_a_real_run_grows_again_as_it_grew(tmp_path: Path, run: str) -> None:
    history = History.open(copy(run, tmp_path))
    steps = [
        None if record is None else (record.step, len(growing))
        for growing, record in history.again()
    ]
    assert [step for step in steps if step] == list(zip(history.steps, range(1, 999)))  # noqa: B905
    assert steps.count(None) == len(list(history._memory.notes())) > 0
    growing = [growing for growing, _ in history.again()][-1]
    assert_agree(written_anew(history), growing)


def test_places_come_again_in_the_order_of_the_records_that_are_left() -> None:
    history = History()
    history.append(Record(0, {"m": {"a": 0.0}, "n": {"": 9.0}}))
    history.resume(0)
    history.append(Record(0, {"m": {"b": 1.0}}, lists={"h": {"b": [1.0]}}))
    history.append(Record(1, {"m": {"a": 2.0, "b": 3.0}}, lists={"h": {"a": [2.0], "b": [3.0]}}))
    history.note(1, {"validation/loss": {"": 0.5}})
    growing = [growing for growing, _ in history.again()][-1]
    assert history.places("m") == ["a", "b"]
    assert growing.places("m") == ["b", "a"]
    assert growing.last("m") == {"b": 3.0, "a": 2.0}
    assert growing.series("m", "b") == ([0, 1], [1.0, 3.0])
    assert growing.metrics() == ["m", "h", "validation/loss"]
    assert_agree(written_anew(history), growing)


def test_records_give_their_numbers_when_asked_and_compare_like_those_appended(
    run_python: Callable[..., str],
) -> None:
    history = History()
    values = {"m": {"a": 1.0, "b": 2.0}, "n": {"": 3.0}}
    history.append(Record(4, values))
    (record,) = history.records()
    assert record == Record(4, values)
    assert dict(record.values) == values
    assert "q" not in record.values
    assert record.values.get("q") is None
    with pytest.raises(KeyError):
        record.values["q"]
    code = (
        "import pickle; from lightning_diag.history import History;"
        "from lightning_diag.record import Record; h = History();"
        "h.append(Record(1, {'m': {'a': 2.0}}));"
        "print(type(pickle.loads(pickle.dumps(next(h.records()))).values), next(h.records()))"
    )
    told = run_python(code)
    assert told.startswith("<class 'dict'> Record(step=1, values={'m': {'a': 2.0}}")
