"""What a history remembers: the same in memory and in its file, with no step doubled."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from history_checks import assert_agree, finding, same_lists
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_diag.finding import Finding
from lightning_diag.history import History, Series
from lightning_diag.record import Record

NAMES = [
    "",
    "net.0.weight",
    'a "quoted"\nline',
    "größe/层",
    "</script>",
    "100 %s",
    "\ud800",
    "nan,[inf]",
]
FLOATS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, -0.0, 1e-7, 999999.5, 1234567.0, 2.0**53, -1e300, math.inf, math.nan]),
)
PLACES = st.lists(st.sampled_from(NAMES[:5]), max_size=4, unique=True)
VALUES = PLACES.flatmap(lambda places: st.fixed_dictionaries(dict.fromkeys(places, FLOATS)))
LISTS = st.dictionaries(st.sampled_from(NAMES), st.lists(FLOATS, max_size=4), max_size=3)
DENSE = st.lists(FLOATS, max_size=9)


@st.composite
def records(draw: st.DrawFn) -> Record:
    """Return a record with odd names, odd numbers and absent places."""
    return Record(
        step=draw(st.integers(0, 60)),
        values=draw(st.dictionaries(st.sampled_from(NAMES[4:7]), VALUES, max_size=3)),
        dense=draw(st.dictionaries(st.sampled_from(["loss/train", "100 %d"]), DENSE, max_size=2)),
        lists=draw(st.dictionaries(st.just("m/histogram"), LISTS, max_size=1)),
        epoch=draw(st.integers(0, 3)),
        seconds=draw(st.floats(0, 1e7)),
        optimizer_steps=tuple(draw(st.lists(st.integers(0, 99), max_size=2))),
    )


class Reference:
    """A slow, obvious history: dictionaries by step."""

    def __init__(self) -> None:
        self.records: dict[int, Record] = {}
        self.dense: dict[str, dict[int, float]] = {}

    def resume(self, step: int) -> None:
        self.records = {s: r for s, r in self.records.items() if s < step}
        for metric, values in self.dense.items():
            self.dense[metric] = {s: v for s, v in values.items() if s < step}

    def append(self, record: Record) -> None:
        if any(step >= record.step for step in self.records):
            self.resume(record.step)
        self.records[record.step] = record
        for metric, values in record.dense.items():
            first = record.step - len(values) + 1
            kept = {s: v for s, v in self.dense.get(metric, {}).items() if s < first or not values}
            self.dense[metric] = kept | dict(enumerate(values, first))

    def series(self, metric: str, place: str) -> list[tuple[int, float]]:
        if self.dense.get(metric):
            return list(self.dense[metric].items()) if place == "" else []
        values = {step: record.values.get(metric, {}) for step, record in self.records.items()}
        return [(step, column[place]) for step, column in values.items() if place in column]


def sample() -> History:
    """Return a small history with one of each kind of number."""
    history = History()
    history.append(
        Record(
            step=0,
            values={"gradient/norm": {"b": 2.0, "a": 1.0}, "gradient/total_norm": {"": 3.0}},
            dense={"loss/train": [0.9]},
        )
    )
    history.append(
        Record(
            step=3,
            values={"gradient/norm": {"a": 4.0, "c": 5.0}},
            dense={"loss/train": [0.8, 0.7, 0.6]},
            lists={"dead_relu/units": {"relu": [1.0, 7.0], "quiet": []}},
            epoch=1,
            seconds=2.5,
            optimizer_steps=(4,),
        )
    )
    return history


def test_a_series_holds_the_steps_at_which_its_place_was_observed() -> None:
    history = sample()
    assert history.series("gradient/norm", "a") == Series([0, 3], [1.0, 4.0])
    assert history.series("gradient/norm", "b") == Series([0], [2.0])
    assert history.series("gradient/norm", "c") == Series([3], [5.0])
    assert history.series("gradient/total_norm") == Series([0], [3.0])
    assert history.series("gradient/norm", "unknown") == Series([], [])
    assert history.series("unknown") == Series([], [])


def test_the_order_in_which_metrics_and_places_come_does_not_matter(tmp_path: Path) -> None:
    with History(tmp_path / "h.jsonl") as history:
        history.append(
            Record(step=0, values={"m": {"a": 1.0, "b": 2.0}, "n": {"a": 3.0, "b": 4.0}})
        )
        history.append(
            Record(step=1, values={"n": {"b": 4.0, "a": 3.0}, "m": {"b": 2.0, "a": 1.0}})
        )
        history.append(
            Record(step=2, values={"n": {"a": 3.0, "b": 4.0}, "m": {"a": 1.0, "b": 2.0}})
        )
    for read in (history, History.open(tmp_path / "h.jsonl")):
        found = [read.series(metric, place).values for metric in "mn" for place in "ab"]
        assert found == [[1.0] * 3, [2.0] * 3, [3.0] * 3, [4.0] * 3]
        assert [list(values) for _, values in read.window("m", 3)] == [["a", "b"]] * 3


def test_a_dense_series_has_one_entry_for_each_step() -> None:
    history = sample()
    assert history.series("loss/train") == Series([0, 1, 2, 3], [0.9, 0.8, 0.7, 0.6])
    assert history.last("loss/train") == {"": 0.6}
    assert history.window("loss/train", 2) == [(2, {"": 0.7}), (3, {"": 0.6})]
    assert history.series("loss/train", "elsewhere") == Series([], [])


def test_places_stand_in_order_of_first_appearance() -> None:
    history = sample()
    assert history.places("gradient/norm") == ["b", "a", "c"]
    assert history.places("dead_relu/units") == ["relu", "quiet"]
    assert history.places("unknown") == []
    names = ["gradient/norm", "gradient/total_norm", "loss/train", "dead_relu/units"]
    assert sorted(history.metrics()) == sorted(names)


def test_a_window_skips_records_without_the_metric() -> None:
    history = sample()
    assert history.window("gradient/total_norm", 5) == [(0, {"": 3.0})]
    assert history.window("gradient/norm", 1) == [(3, {"a": 4.0, "c": 5.0})]
    assert history.window("gradient/norm", 0) == []
    assert history.window("unknown", 5) == []
    assert history.last("gradient/total_norm") == {"": 3.0}
    assert history.last("unknown") == {}


def test_an_empty_list_is_observed_and_a_missing_one_is_not() -> None:
    history = sample()
    assert history.lists("dead_relu/units", "relu") == [(3, [1.0, 7.0])]
    assert history.lists("dead_relu/units", "relu", 0) == []
    assert history.lists("dead_relu/units", "quiet") == [(3, [])]
    assert history.lists("dead_relu/units", "unknown") == []
    assert history.lists("gradient/norm", "a") == []


def test_a_record_comes_back_as_it_was_taken() -> None:
    first, second = sample().records()
    assert first == Record(
        step=0,
        values={"gradient/norm": {"b": 2.0, "a": 1.0}, "gradient/total_norm": {"": 3.0}},
        dense={"loss/train": [0.9]},
    )
    assert (second.epoch, second.seconds, second.optimizer_steps) == (1, 2.5, (4,))
    assert second.dense == {"loss/train": [0.8, 0.7, 0.6]}


def test_an_empty_history_says_so() -> None:
    history = History()
    assert len(history) == 0
    assert (history.steps, history.metrics(), history.findings) == ([], [], [])
    assert (history.meta, list(history.records())) == ({}, [])


def test_metadata_is_merged_and_held_as_json_holds_it(tmp_path: Path) -> None:
    with History(tmp_path / "h.jsonl") as history:
        history.update_meta({"a": (1, 2), "b": {"x": math.nan}, 3: Path("p")})  # type: ignore[dict-item]
        history.update_meta({"b": None})
    assert history.meta == {"a": [1, 2], "b": None, "3": "p"}
    assert History.open(tmp_path / "h.jsonl").meta == history.meta


def test_the_latest_version_of_a_finding_stands(tmp_path: Path) -> None:
    with History(tmp_path / "h.jsonl") as history:
        history.add_finding(finding("dead-relu", 20, 80))
        history.add_finding(finding("non-finite", 30, 30, math.nan))
        history.add_finding(finding("dead-relu", 20, 90))
    assert [f.steps for f in history.findings] == [(20, 90), (30, 30)]
    read = History.open(tmp_path / "h.jsonl").findings
    assert repr(read) == repr(history.findings)
    assert isinstance(read[0].evidence.window, int)


def test_the_same_finding_is_written_once(tmp_path: Path) -> None:
    with History(tmp_path / "h.jsonl") as history:
        for _ in range(3):
            history.add_finding(finding("dead-relu", 20, 80))
    assert (tmp_path / "h.jsonl").read_text().count('{"finding"') == 1


@pytest.mark.parametrize("name", ["max_bytes", "max_numbers"])
def test_a_limit_below_one_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0."):
        History(**{name: 0})  # type: ignore[arg-type]


def test_numbers_keep_six_digits_and_whole_numbers_all(tmp_path: Path) -> None:
    numbers = [0.123456789, 1234567.0, 2.0**53, 1234567.8, 1e-30, -0.5, 1e300]
    with History(tmp_path / "h.jsonl") as history:
        history.append(Record(step=0, values={"m": {str(i): x for i, x in enumerate(numbers)}}))
    read = History.open(tmp_path / "h.jsonl").last("m")
    assert list(read.values()) == [0.123457, 1234567.0, 2.0**53, 1234570.0, 1e-30, -0.5, 1e300]
    assert (
        "[0.123457,1234567,9007199254740992,1.23457e+06,1e-30,-0.5,1e+300]"
        in (tmp_path / "h.jsonl").read_text()
    )


def test_every_line_is_json_that_common_tools_read(tmp_path: Path) -> None:
    """P13: what is not finite is written as words, since NaN is no JSON."""

    def refuse(word: str) -> float:
        raise AssertionError(word)

    with History(tmp_path / "h.jsonl") as history:
        history.append(
            Record(
                step=0,
                values={name: {name: math.nan, "y": -math.inf, "z": math.inf} for name in NAMES},
                dense={"loss/train": [math.nan]},
                lists={"l": {"</script>": [math.inf]}},
                seconds=math.inf,
            )
        )
    text = (tmp_path / "h.jsonl").read_bytes()
    assert text.isascii()
    lines = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    assert lines[-1]["record"]["values"][""] == ["nan", "-inf", "inf"]
    assert [next(iter(line)) for line in lines] == ["schema", "layout", "record"]
    assert_agree(history, History.open(tmp_path / "h.jsonl"))


def test_the_layout_is_written_once_and_again_only_when_it_grows(tmp_path: Path) -> None:
    with History(tmp_path / "h.jsonl") as history:
        for step in range(5):
            history.append(Record(step=step, values={"m": {"b": 1.0, "a": 2.0}}))
        history.append(Record(step=5, values={"m": {"a": 1.0, "c": 2.0}, "n": {"": 3.0}}))
    lines = [json.loads(line) for line in (tmp_path / "h.jsonl").read_text().splitlines()]
    layouts = [line["layout"] for line in lines if "layout" in line]
    assert layouts == [{"m": ["b", "a"]}, {"m": ["b", "a", "c"], "n": [""]}]
    assert lines[-1]["record"]["values"] == {"m": [None, 1, 2], "n": [3]}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    operations=st.lists(
        st.one_of(
            records(),
            st.integers(0, 60),
            st.just("reopen"),
            st.just("rewrite"),
            st.builds(finding, st.sampled_from("ab"), st.integers(0, 60), st.just(60), FLOATS),
            st.dictionaries(st.sampled_from(NAMES), FLOATS, max_size=2),
        ),
        max_size=12,
    )
)
def test_memory_file_and_a_plain_reference_agree(
    operations: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("h") / "h.jsonl"
    history, reference = History(path), Reference()
    for operation in operations:
        if isinstance(operation, Record):
            history.append(operation)
            reference.append(operation)
        elif isinstance(operation, int):
            history.resume(operation)
            reference.resume(operation)
        elif isinstance(operation, Finding):
            history.add_finding(operation)
        elif isinstance(operation, dict):
            history.update_meta(operation)
        elif operation == "rewrite":
            history._rewrite()
        else:
            history.close()
            history = History(path)
        assert_agree(history, History.open(path))
    history.close()
    assert history.steps == list(reference.records)
    for metric in history.metrics():
        for place in history.places(metric):
            found = history.series(metric, place)
            expected = reference.series(metric, place)
            assert found.steps == [step for step, _ in expected]
            assert same_lists([value for _, value in expected], found.values)


def test_a_step_that_comes_again_supersedes_itself(tmp_path: Path) -> None:
    with History(tmp_path / "h.jsonl") as history:
        history.append(Record(step=4, values={"m": {"": 1.0}}, dense={"l": [1.0, 2.0]}))
        history.append(Record(step=4, values={"m": {"": 9.0}}, dense={"l": [8.0]}))
    assert history.series("m") == Series([4], [9.0])
    assert history.series("l") == Series([3, 4], [1.0, 8.0])
    assert_agree(history, History.open(tmp_path / "h.jsonl"))
    text = (tmp_path / "h.jsonl").read_text()
    assert '{"resume":4}\n' in text
    (tmp_path / "h.jsonl").write_text(text.replace('{"resume":4}\n', ""))
    assert_agree(history, History.open(tmp_path / "h.jsonl"))


def test_a_second_fit_from_step_zero_supersedes_the_first(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        with History(tmp_path / "h.jsonl") as history:
            for step in range(0, 30, 10):
                history.append(Record(step=step, values={"m": {"": value}}))
    assert history.series("m") == Series([0, 10, 20], [2.0, 2.0, 2.0])
    assert_agree(history, History.open(tmp_path / "h.jsonl"))


def test_resume_keeps_the_losses_of_steps_that_are_not_taken_again(tmp_path: Path) -> None:
    """A checkpoint at step 8, between the records of 5 and 10."""
    with History(tmp_path / "h.jsonl") as history:
        history.append(
            Record(step=5, values={}, dense={"loss/train": [float(s) for s in range(6)]})
        )
        history.append(Record(step=10, values={}, dense={"loss/train": [6.0, 7.0, 8.0, 9.0, 10.0]}))
        history.resume(8)
        history._rewrite()
    with History(tmp_path / "h.jsonl") as history:
        assert history.steps == [5]
        assert history.series("loss/train").steps == list(range(8))
        history.append(Record(step=10, values={}, dense={"loss/train": [8.5, 9.5, 10.5]}))
    assert history.series("loss/train").values == [0, 1, 2, 3, 4, 5, 6, 7, 8.5, 9.5, 10.5]
    assert_agree(history, History.open(tmp_path / "h.jsonl"))


def test_resume_forgets_findings_first_seen_at_steps_taken_again() -> None:
    history = History()
    history.add_finding(finding("dead-relu", 20, 80))
    history.add_finding(finding("non-finite", 50, 80))
    history.resume(50)
    assert [f.code for f in history.findings] == ["dead-relu"]


@pytest.mark.parametrize("copies", [copy.deepcopy, lambda h: pickle.loads(pickle.dumps(h))])
def test_a_copy_reads_the_same_and_never_writes(
    tmp_path: Path, copies: Callable[[History], History]
) -> None:
    """P17: a model, or a callback, that holds a history can be copied and saved."""
    history = History(tmp_path / "h.jsonl")
    history.append(Record(step=0, values={"m": {"a": 1.0, "c": 2.0}}, lists={"l": {"a": [1.0]}}))
    before = (tmp_path / "h.jsonl").read_bytes()
    other = copies(history)
    assert_agree(history, other)
    other.append(Record(step=1, values={"m": {"a": 3.0}}))
    other.close()
    assert (tmp_path / "h.jsonl").read_bytes() == before
    history.append(Record(step=1, values={"m": {"c": 4.0}}))
    history.close()
    assert History.open(tmp_path / "h.jsonl").last("m") == {"c": 4.0}
