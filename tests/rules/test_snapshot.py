"""Rules that share what they read say what each of them says alone."""

from __future__ import annotations

import pytest

from lightning_diag.history import History
from lightning_diag.record import Record
from lightning_diag.rules import default_rules
from lightning_diag.rules.snapshot import Snapshot
from rules.stories import story
from rules.test_contract import SICK


@pytest.mark.parametrize("code", SICK)
def test_all_rules_judge_a_snapshot_as_they_judge_the_history(code: str) -> None:
    history = SICK[code]()
    alone = [rule.check(history) for rule in default_rules()]
    shared = Snapshot(history)
    assert [rule.check(shared) for rule in default_rules()] == alone
    assert [rule.check(shared) for rule in reversed(default_rules())] == alone[::-1]


def test_a_snapshot_says_what_the_history_says() -> None:
    history = story()
    shared = Snapshot(history)
    for _ in range(2):
        assert shared.steps == history.steps
        assert shared.metrics() == history.metrics()
        assert list(shared.records()) == list(history.records())
        for metric in [*history.metrics(), "not/there"]:
            assert shared.last(metric) == history.last(metric)
            assert shared.window(metric, 3) == history.window(metric, 3)
            assert shared.places(metric) == history.places(metric)
            for place in [*history.places(metric), "elsewhere"]:
                assert shared.series(metric, place) == history.series(metric, place)
                assert shared.lists(metric, place) == history.lists(metric, place)


def test_a_snapshot_of_a_history_that_has_grown_is_up_to_date_and_the_same_object() -> None:
    history = story(steps=[0, 1, 2])
    shared = Snapshot(History()).of(history)
    assert shared.steps == [0, 1, 2]
    assert shared.last("lr/value") == {"SGD/group0": 0.1}
    history.append(Record(3, {"lr/value": {"SGD/group0": 0.2}, "new/metric": {"": 1.0}}))
    assert shared.of(history) is shared
    assert shared.steps == [0, 1, 2, 3]
    assert shared.last("lr/value") == {"SGD/group0": 0.2}
    assert shared.last("new/metric") == {"": 1.0}
    assert shared.window("lr/value", 1) == history.window("lr/value", 1)
    assert shared.series("lr/value", "SGD/group0") == history.series("lr/value", "SGD/group0")


def test_all_that_can_be_read_of_a_history_can_be_read_of_a_snapshot() -> None:
    changes = {"append", "note", "resume", "show", "add_finding", "update_meta"}
    changes |= {"open", "continue_from", "again"}
    public = {name for name in vars(History) if not name.startswith("_")}
    assert public - changes - {"close"} <= set(vars(Snapshot))
    assert list(Snapshot(History()).records()) == []
