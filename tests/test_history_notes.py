"""What is noted between records: kept, thinned, read back, superseded."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
from history_checks import assert_agree, finding, lines_of, record

from lightning_diag.history import History, Series
from lightning_diag.history.curve import Curve, Stretch

LOSS = "validation/val_loss"


def validated(history: History, steps: int, every: int = 10) -> None:
    """Append a record for each step, and a note after every so many."""
    for step in range(steps):
        history.append(record(step))
        if step % every == every - 1:
            history.note(step, {LOSS: {"": step + 0.5}, "m": {"held": step + 0.25}})


def test_notes_are_read_as_any_metric_is() -> None:
    history = History()
    validated(history, 25)
    assert history.series(LOSS) == Series([9, 19], [9.5, 19.5])
    assert history.window(LOSS, 1) == [(19, {"": 19.5})]
    assert history.last(LOSS) == {"": 19.5}
    assert history.places(LOSS) == [""]
    assert LOSS in history.metrics()
    assert history.steps == list(range(25))


def test_a_metric_may_have_places_in_records_and_others_in_notes() -> None:
    history = History()
    validated(history, 25)
    assert history.places("m") == ["a", "held"]
    assert history.series("m", "held") == Series([9, 19], [9.25, 19.25])
    assert len(history.series("m", "a").steps) == 25
    assert history.last("m") == {"a": 1.0, "held": 19.25}
    assert history.window("m", 6)[0] == (19, {"a": 1.0, "held": 19.25})
    assert [step for step, _ in history.window("m", 6)] == [19, 20, 21, 22, 23, 24]


def test_a_file_gives_back_what_was_noted_also_after_a_crash(tmp_path: Path) -> None:
    """The last line may be torn."""
    path = tmp_path / "h.jsonl"
    history = History(path)
    validated(history, 25)
    history.note(24, {LOSS: {"": math.nan}})
    assert_agree(history, History.open(path))
    with path.open("ab") as file:
        file.write(b'{"note":{"step":24,"values":{"')
    read = History.open(path)
    assert_agree(history, read)
    assert math.isnan(read.last(LOSS)[""])
    assert lines_of_kind(path) == 3


def lines_of_kind(path: Path) -> int:
    """Return the number of whole lines that are notes."""
    whole = [line for line in path.read_text().splitlines() if line.endswith("}")]
    return sum("note" in json.loads(line) for line in whole)


def test_a_resumed_run_forgets_the_notes_it_will_take_again(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    with History(path) as history:
        validated(history, 40)
    again = History.continue_from(path, path, 20)
    assert again.series(LOSS) == Series([9, 19], [9.5, 19.5])
    again.note(20, {LOSS: {"": 7.0}})
    assert again.series(LOSS) == Series([9, 19, 20], [9.5, 19.5, 7.0])
    assert_agree(again, History.open(path))
    elsewhere = History.continue_from(path, tmp_path / "other.jsonl", 10)
    assert elsewhere.series(LOSS) == Series([9], [9.5])
    assert_agree(elsewhere, History.open(tmp_path / "other.jsonl"))


def test_the_newest_note_of_a_step_counts() -> None:
    history = History()
    for value in (1.0, 2.0):
        history.note(5, {LOSS: {"": value}})
    assert history.series(LOSS) == Series([5], [2.0])


def test_an_empty_note_is_none(tmp_path: Path) -> None:
    history = History(tmp_path / "h.jsonl")
    history.note(3, {})
    history.note(3, {LOSS: {}})
    assert history.metrics() == []
    assert len(lines_of(tmp_path / "h.jsonl")) == 1


@pytest.mark.parametrize("limits", [{"max_bytes": 30_000}, {"max_numbers": 4000}], ids=str)
def test_notes_stay_within_the_limits_and_evenly_spread(
    tmp_path: Path, limits: dict[str, int]
) -> None:
    path = tmp_path / "h.jsonl"
    history = History(path, **limits)
    for step in range(4000):
        if step % 10 == 0:
            history.append(record(step, every=min(step + 1, 10)))
        history.note(step, {LOSS: {"": step + 0.5}})
        assert path.stat().st_size <= limits.get("max_bytes", 64_000_000)
        assert history._memory.cost <= limits.get("max_numbers", 4_000_000)
    series = history.series(LOSS)
    assert series.steps[-2:] == [3998, 3999]
    assert series.values == [step + 0.5 for step in series.steps]
    old = [step for step in series.steps if step < 2000]
    assert len(old) >= 4
    assert max(b - a for a, b in pairwise(old)) <= 1000
    assert len(history.steps) >= 16
    assert_agree(history, History.open(path))


def test_a_finding_after_a_note_stands_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    history = History(path)
    validated(history, 10)
    history.add_finding(finding("overfitting", 9, 9))
    assert [next(iter(line)) for line in lines_of(path)][-2:] == ["note", "finding"]


def test_spreading_keeps_the_newest_half() -> None:
    curve = Curve()
    curve.put(Stretch.ending(999, [float(i) for i in range(1000)]))
    curve.spread(20)
    assert len(curve.steps) <= 20
    assert curve.steps.tolist()[-10:] == list(range(990, 1000))
    assert curve.values.tolist() == curve.steps.tolist()
    assert curve.steps[0] == 0
    before = curve.steps.tolist()
    curve.spread(20)
    assert curve.steps.tolist() == before
