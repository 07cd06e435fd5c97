"""`lightning-diag watch` shows a run while another process writes it, and harms nothing."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from pathlib import Path

import pytest
from cli_runs import copy, history_at, record
from report_runs import HOSTILE, RUNS, make_finding
from rich.console import Console

from lightning_diag.cli import main
from lightning_diag.cli.watch import follow
from lightning_diag.history import History
from lightning_diag.report.live import Follower, Now, Plainly
from lightning_diag.report.live.spark import spark
from lightning_diag.report.live.views import picture

CODES = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


def drawn(
    follower: Follower, *, width: int = 80, height: int = 24, ascii_only: bool = False
) -> str:
    out = Console(file=io.StringIO(), width=width, height=height)
    out.print(picture(follower, width, height, ascii_only=ascii_only))
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


# --- showing ---


def test_the_picture_says_where_the_run_stands(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "lightning_diag" / "history.jsonl"
    with history_at(path) as history:
        for step in range(0, 300, 10):
            history.append(record(step, loss=300.0 - step))
        history.add_finding(make_finding())
    follower = Follower(path, clock=lambda: path.stat().st_mtime)
    follower.look()
    text = drawn(follower)
    assert "running  step 290  epoch 3 of 20  100 steps/s  2.9 s" in text
    assert re.search(r"Loss +10 +█[█▇▆▅▄▃▂▁]+▁\n", text)
    assert re.search(r"Update ratio +1e-3 ", text)
    assert "✖ BAD  dead-relu  since step 60" in text
    assert "45 % of the units" in text


def test_a_run_that_says_nothing_for_long_is_said_to_be_busy_or_killed(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with history_at(path) as history:
        history.append(record(0))
    written = path.stat().st_mtime
    for seconds, said in ((5, False), (500, True)):
        follower = Follower(path, clock=partial(float.__add__, written, float(seconds)))
        follower.look()
        assert ("no news for 8 min 20 s" in drawn(follower)) == said


@pytest.mark.parametrize("run", RUNS)
def test_the_picture_fits_its_terminal(tmp_path: Path, run: str) -> None:
    history, findings = RUNS[run]()
    path = tmp_path / ("very-long-name-" * 9) / "history.jsonl"
    with History(path) as stored:
        stored.update_meta(history.meta)
        for one in history.records():
            stored.append(one)
        for finding in findings * 3:
            stored.add_finding(finding)
    follower = Follower(path)
    follower.look()
    for width, height in product((40, 60, 80, 120), (6, 24)):
        lines = drawn(follower, width=width, height=height).splitlines()
        assert len(lines) <= height
        assert max(map(len, lines)) <= width
        assert not CODES.search("".join(lines))
        assert "\u202e" not in "".join(lines)


def test_a_long_path_keeps_its_end_and_says_how_the_run_ended(tmp_path: Path) -> None:
    path = tmp_path / ("far-away-" * 9) / "version_7" / "lightning_diag" / "history.jsonl"
    with history_at(path) as history:
        history.append(record(0))
        history.update_meta({"not_judged": {}, "ended": "ValueError"})
    follower = Follower(path)
    follower.look()
    first, second, *_ = drawn(follower, width=60).splitlines()
    assert first.startswith("lightning_diag  ...")
    assert first.endswith("/version_7")
    assert len(first) == 60
    assert second.startswith("ended by ValueError  step 0")


def test_findings_that_have_no_room_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with history_at(path) as history:
        history.append(record(0))
        for i in range(9):
            history.add_finding(make_finding(f"rule-{i}"))
    follower = Follower(path)
    follower.look()
    text = drawn(follower, height=12)
    assert "rule-0" in text
    assert re.search(r"and [78] more", text)
    assert "more" not in drawn(follower, height=40)


def test_a_terminal_that_is_not_unicode_gets_letters_that_it_has(tmp_path: Path) -> None:
    log = copy("high-learning-rate", tmp_path / "Läufe")
    follower = Follower(log / "lightning_diag" / "history.jsonl")
    follower.look()
    for width in (40, 200):
        assert drawn(follower, ascii_only=True, width=width).isascii()
    follower.run.findings["é"] = make_finding("é", message="модель ×")
    assert drawn(follower, ascii_only=True, height=99).isascii()


def test_curves_show_what_is_not_finite() -> None:
    assert spark([1.0, math.nan, 2.0, math.inf]) == "▁!█!"
    assert spark([0.0, 1e-6, 1.0], is_log=True) == "▁▁█"
    assert spark([]) == ""
    assert spark([5.0, 5.0]) == "▁▁"


# --- the command ---


class Sleeper:
    """Writes a line of a run instead of sleeping, as another process would."""

    def __init__(self, events: Iterable[Callable[[], object]]) -> None:
        self.events = iter(events)

    def __call__(self, seconds: float) -> None:
        event = next(self.events, None)
        if event is None:
            raise KeyboardInterrupt
        event()


def test_watch_waits_for_a_run_and_prints_a_line_for_each_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run" / "lightning_diag" / "history.jsonl"
    history = History()

    def begin() -> None:
        nonlocal history
        history = history_at(path)

    sleep = Sleeper(
        [
            lambda: None,
            begin,
            lambda: history.append(record(0)),
            lambda: None,
            lambda: history.append(record(10, loss=0.25)),
            lambda: history.add_finding(make_finding()),
            lambda: history.update_meta({"not_judged": {}, "muted": {}}),
        ]
    )
    assert follow(tmp_path / "run", 1.0, sleep=sleep) == 0
    history.close()
    told = capsys.readouterr().out
    assert told.count("Waiting for a run at") == 1
    assert told.count("no step was watched yet") == 1
    lines = [line for line in told.splitlines() if line.startswith("step ")]
    assert [line.split("  ")[0] for line in lines] == ["step 0", "step 10"]
    assert "loss 0.25" in lines[1]
    assert told.index("step 10") < told.index("✖ BAD  dead-relu  since step 60")
    assert "Training is broken: dead-relu since step 60." in told
    assert not CODES.search(told)
    assert not [line for line in told.splitlines() if line != line.rstrip()]


def test_ctrl_c_ends_watching_and_leaves_the_file_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "lightning_diag" / "history.jsonl"
    with history_at(path) as history:
        history.append(record(3))
    before = path.read_bytes()
    assert follow(tmp_path, 1.0, sleep=Sleeper([lambda: None])) == 0
    assert path.read_bytes() == before
    told = capsys.readouterr()
    assert told.out.startswith("step 3  ")
    assert told.err == ""


def test_watching_a_run_that_has_ended_says_how_and_returns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", str(copy("healthy", tmp_path))]) == 0
    told = capsys.readouterr().out
    assert told.startswith("step 439  epoch 20 of 20")
    assert "No problem found" in told


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["watch", "notes.txt"], "'notes.txt' is not a history file"),
        (["watch", "image.png"], "'image.png' is not a history file"),
        (["watch", "runs"], "holds 2 runs: name one of them"),
        (["watch", "newer.jsonl"], "update lightning_diag to read it"),
    ],
)
def test_what_cannot_be_watched_is_told_in_one_sentence(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("notes.txt").write_text("not a history\n", encoding="utf-8")
    Path("image.png").write_bytes(b"\x89PNG" + bytes(9000))
    Path("newer.jsonl").write_text('{"schema":99}\n', encoding="utf-8")
    for name in ("a", "b"):
        copy("healthy", Path("runs") / name)
    assert main(words) == 2
    told = capsys.readouterr().err
    assert reason in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "nan"])
def test_an_interval_must_be_seconds(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        main(["watch", "run", "--interval", seconds])
    assert leave.value.code == 2
    assert "--interval" in capsys.readouterr().err


def test_names_from_a_file_cannot_steer_the_terminal(tmp_path: Path) -> None:
    out = Console(file=io.StringIO(), width=100)
    view = Plainly(out)
    view.wait(f"Waiting for {HOSTILE}")
    now = Now()
    now.take({"record": {"step": 1, "epoch": 0, "seconds": 0.0, "values": {}}})
    assert isinstance(out.file, io.StringIO)
    assert not CODES.search(out.file.getvalue())
