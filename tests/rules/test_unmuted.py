"""A muted place is nowhere in what a rule sees, and all else is as it was."""

from __future__ import annotations

import pytest

from lightning_diag.history import History
from lightning_diag.record import Record
from lightning_diag.rules import DEFAULT_RULES, Rule
from lightning_diag.rules.unmuted import Unmuted, left_out
from rules.stories import call, story, weight
from rules.test_contract import SICK


def test_nothing_is_left_out_by_a_pattern_that_matches_nothing() -> None:
    whole = story()
    part = Unmuted(whole, ["elsewhere*"])
    assert part.meta == whole.meta
    assert part.metrics() == whole.metrics()
    assert len(part) == len(whole)
    assert part.steps == whole.steps
    assert list(part.records()) == list(whole.records())
    for metric in whole.metrics():
        assert part.places(metric) == whole.places(metric)
        assert part.last(metric) == whole.last(metric)
        assert part.window(metric, 5) == whole.window(metric, 5)
        for place in whole.places(metric):
            assert part.series(metric, place) == whole.series(metric, place)


def test_a_place_is_left_out_everywhere() -> None:
    whole = story()
    part = Unmuted(whole, ["net.2.*"])
    texts = [repr(part.meta["parameters"]), repr(part.meta["sites"])]
    texts += [repr(record.values) for record in part.records()]
    for metric in part.metrics():
        texts += [repr(part.places(metric)), repr(part.window(metric, 3)), repr(part.last(metric))]
    assert any("net.2." in repr(record.values) for record in whole.records())
    assert not any("net.2." in text for text in texts)
    assert part.series("update/ratio", weight(2)).steps == []
    assert part.series("update/ratio", weight(3)) == whole.series("update/ratio", weight(3))


def test_a_metric_of_muted_places_alone_was_not_measured() -> None:
    part = Unmuted(story(), ["*relu#*"])
    assert "dead_relu/fraction" not in part.metrics()
    assert part.window("dead_relu/fraction", 3) == []
    assert part.last("dead_relu/fraction") == {}
    assert part.lists("activation/histogram", call(0)) == []


@pytest.mark.parametrize("rule", DEFAULT_RULES, ids=lambda rule: rule.code)
def test_no_rule_speaks_of_a_muted_place_nor_fails(rule: type[Rule]) -> None:
    history = SICK[rule.code]()
    for pattern in ("*", "net.0*", "*weight", "*/*"):
        for finding in rule()(Unmuted(history, [pattern])):
            heard = set(Unmuted(history, [pattern]).meta["parameters"])
            assert pattern != "*" or not finding.places
            assert all(place in heard or "weight" not in place for place in finding.places)


def test_all_that_can_be_read_of_a_history_passes_the_filter() -> None:
    changes = {"append", "note", "resume", "show", "add_finding", "update_meta"}
    changes |= {"open", "continue_from", "again"}
    public = {name for name in vars(History) if not name.startswith("_")}
    assert public - changes - {"close"} <= set(vars(Unmuted))
    assert "__len__" in vars(Unmuted)


def test_muted_places_are_in_no_column_table_or_picture() -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    whole = History()
    whole.append(Record(0, {"gradient/norm": {"a": 1.0, "b": 2.0, "c": 3.0}}))
    whole.append(Record(1, {"gradient/norm": {"b": 4.0}}))
    for place in "ab":
        whole.show("filter/pixels", place, 0, place)
    heard = Unmuted(whole, ["b"])
    assert list(heard.columns("gradient/norm")) == [(0, [0, 1], [1.0, 3.0])]
    assert heard.places("gradient/norm") == ["a", "c"]
    assert list(heard.to_pandas("gradient/norm").columns) == ["a", "c"]
    assert heard.to_arrow()["place"].to_pylist() == ["a", "c"]
    assert heard.shown("filter/pixels") == {"a": [(0, "a")]}
    assert list(heard.marks()) == list(whole.marks())


def test_a_pattern_that_leaves_nothing_out_is_told() -> None:
    assert left_out(story(), "net.3*") == "5 places left out"
    assert left_out(History(), "net.3*") == "no such place"
