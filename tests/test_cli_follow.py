"""A run is read from its file as it grows, whatever happens to the file."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from cli_runs import REAL, history_at, record
from report_runs import make_finding

from lightning_diag.finding import Finding
from lightning_diag.history import History
from lightning_diag.report.live import Follower, Trace


def test_what_is_appended_is_read_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with history_at(path) as history:
        follower = Follower(path)
        assert follower.look() == []
        assert follower.run.step is None
        history.append(record(0))
        history.note(0, {"validation/val_loss": {"": 2.5}})
        follower.look()
        assert follower.run.step == 0
        line = path.read_bytes()
        with path.open("ab") as file:
            file.write(b'{"record":{"step":7,"epo')
        follower.look()
        assert follower.run.step == 0
        path.write_bytes(line)
        history.append(record(7, loss=math.nan, norm=math.inf))
        follower.look()
    traces = follower.run.traces
    assert follower.run.step == 7
    assert math.isnan(traces["Loss"].last or 0)
    assert traces["Gradient norm"].last == math.inf
    assert traces["Validation loss"].last == 2.5
    assert traces["Update ratio"].last == 1e-3


def test_a_file_that_thinning_replaced_is_read_anew_and_no_finding_is_said_twice(
    tmp_path: Path,
) -> None:
    path = tmp_path / "history.jsonl"
    with History(path, max_bytes=20_000) as history:
        follower = Follower(path)
        history.add_finding(make_finding(steps=(1, 2)))
        assert [finding.code for finding in follower.look()] == ["dead-relu"]
        identities = set()
        for step in range(3, 400):
            history.append(record(step))
            assert follower.look() == []
            assert follower.run.step == step
            identities.add(path.stat().st_ino)
        assert len(identities) > 1
        assert set(follower.run.findings) == {"dead-relu"}


def test_a_finding_is_news_when_it_is_new_or_worse(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with history_at(path) as history:
        follower = Follower(path)
        said = []
        for severity in ("suspect", "note", "bad", "bad", "suspect"):
            history.add_finding(make_finding(severity=severity))
            said.append([finding.severity for finding in follower.look()])
        assert said == [["suspect"], [], ["bad"], [], []]


def test_a_file_that_is_gone_or_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    follower = Follower(path)
    assert follower.look() == []
    with history_at(path) as history:
        history.append(record(0))
        follower.look()
        assert follower.run.step == 0
        path.unlink()
        assert follower.look() == []
        history.append(record(1))
        follower.look()
        assert follower.run.step == 1


def test_steps_that_come_again_supersede_what_was_known_of_them(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with history_at(path) as history:
        for step in range(10):
            history.append(record(step, loss=float(step)))
        history.add_finding(make_finding(steps=(7, 9)))
        history.resume(5)
        follower = Follower(path)
        follower.look()
    assert follower.run.traces["Loss"].levels(99) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert follower.run.findings == {}


def test_a_run_has_ended_when_its_diagnosis_has_closed_and_not_when_it_goes_on(
    tmp_path: Path,
) -> None:
    path = tmp_path / "history.jsonl"
    with history_at(path) as history:
        follower = Follower(path)

        def ended() -> bool:
            follower.look()
            return follower.run.ended

        history.append(record(0))
        assert not ended()
        history.update_meta({"not_judged": {}, "muted": {}})
        assert ended()
        history.update_meta({"trainer": {"max_epochs": 2}})
        assert not ended()
        history.update_meta({"not_judged": {}, "muted": {}})
        history.append(record(1))
        assert not ended()


def test_the_end_is_seen_when_the_last_write_thins_the_file(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    follower = Follower(path)
    with History(path, max_bytes=20_000) as history:
        step = 0
        while path.stat().st_size < 18_000:
            history.append(record(step))
            step += 1
            follower.look()
        assert not follower.run.ended
        before = path.stat().st_ino
        last = {"not_judged": {"dead-relu": "x" * 3000}, "muted": {}, "ended": "finished"}
        history.update_meta(last)
        assert path.stat().st_ino != before
        follower.look()
        assert follower.run.ended
        assert follower.run.step == step - 1


def test_a_fit_that_follows_a_thinned_one_goes_on_until_it_ends_itself(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with History(path) as history:
        history.append(record(0))
        history.update_meta({"not_judged": {}, "muted": {}, "ended": "ValueError"})
        history._rewrite()
        follower = Follower(path)
        follower.look()
        assert follower.run.ended
        history.update_meta({"ended": ""})
        follower.look()
        assert not follower.run.ended
        history.append(record(1))
        history._rewrite()
        follower.look()
        assert not follower.run.ended
        history.update_meta({"not_judged": {}, "muted": {}, "ended": "finished"})
        follower.look()
        assert follower.run.ended


@pytest.mark.parametrize("run", ["healthy", "high-learning-rate"])
def test_real_runs_are_read_to_the_same_numbers_as_a_history_holds(run: str) -> None:
    path = REAL / f"{run}.jsonl"
    follower, history = Follower(path), History.open(path)
    follower.look()
    now = follower.run
    assert now.ended
    assert now.step == history.steps[-1]
    assert set(now.findings.values()) == set(history.findings)
    losses = history.series("loss/train").values
    assert now.traces["Loss"].levels(10**6) == losses
    norms = history.series("gradient/total_norm").values
    assert now.traces["Gradient norm"].levels(10**6) == norms


def test_lines_of_later_versions_and_nonsense_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with history_at(path) as history:
        history.append(record(0))
    with path.open("a", encoding="utf-8") as file:
        file.write('{"novelty": 1}\n{"record": 5}\n\n[1]\n{"finding": {}}\n')
    follower = Follower(path)
    assert follower.look() == []
    assert follower.run.step == 0


def test_a_trace_stays_small_and_keeps_its_shape() -> None:
    trace = Trace(most=64)
    for step in range(10_000):
        trace.put(step, float(step))
    levels = trace.levels(8)
    assert len(trace.levels(10**6)) <= 65
    assert levels == sorted(levels)
    assert levels[0] == pytest.approx(625, rel=0.2)
    assert levels[-1] == pytest.approx(9375, rel=0.2)
    trace.forget(5000)
    assert max(trace.levels(99)) < 5000


def test_a_look_reads_what_is_new_and_not_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "history.jsonl"
    shutil.copy(REAL / "healthy.jsonl", path)
    follower = Follower(path)
    follower.look()
    taken: list[object] = []
    monkeypatch.setattr(follower.run, "take", taken.append)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"novelty": 1}) + "\n")
    follower.look()
    assert taken == [{"novelty": 1}]


def test_a_finding_of_the_file_is_what_the_history_has(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    finding = make_finding(caused_by="exploding-gradient", until=9)
    with History(path) as history:
        history.add_finding(finding)
    follower = Follower(path)
    assert follower.look() == [finding]
    assert isinstance(follower.run.findings["dead-relu"], Finding)
