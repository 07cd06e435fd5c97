"""Wrong paths, torn files, files of another kind: one sentence, and exit 2."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cli_runs import REAL, copy, history_at, record

from lightning_diag.cli import main

COMMANDS = ["judge", "report", "watch", "compare", "figures"]


def refused(command: str, run: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that cannot be done, and return its sentence."""
    copy("healthy", Path("other")) if not Path("other").exists() else None
    others = ["other"] if command == "compare" else []
    assert main([command, run, *others]) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert told.err.startswith("lightning-diag: ")
    return told.err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("junk", bytes(range(256)) * 40, "is not a history file"),
        ("list", b"[1,2]\n", "is not a history file"),
        ("words", b'{"schema":"x"}\n', "is not a history file"),
        ("utf-16", '{"schema":1}\n'.encode("utf-16"), "is not a history file"),
        ("endless", b'{"schema":1,"x":"' + b"a" * 9000 + b'"}\n', "is not a history file"),
        ("newer", b'{"schema":99}\n', "update lightning_diag to read it"),
    ],
)
def test_a_file_of_another_kind_is_refused(
    command: str, name: str, content: bytes, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_bytes(content)
    assert reason in refused(command, name, capsys)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_path_that_can_hold_no_run_is_refused_and_not_waited_for(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("one").symlink_to("two")
    Path("two").symlink_to("one")
    assert "one: " in refused(command, "one", capsys)
    assert "neither a file nor a folder" in refused(command, os.devnull, capsys)
    Path("closed").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != "closed")
    assert "closed: Permission denied." in refused(command, "closed", capsys)


@pytest.mark.parametrize("content", [b"", b'{"sch', b'{"schema":1}\n', b'{"schema":1}\n{"record'])
def test_a_run_that_has_hardly_begun_is_not_judged(
    content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("run").write_bytes(content)
    for command in ("judge", "compare", "figures"):
        assert "holds no watched step (yet)" in refused(command, "run", capsys)


def test_what_is_spoilt_in_a_file_is_left_out_and_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = (REAL / "healthy.jsonl").read_text(encoding="utf-8").splitlines()
    lines[2:2] = [
        json.dumps({"meta": {"parameters": 5}}),
        json.dumps({"meta": {"sites": {"a": "b"}, "trainer": {}}}),
        '{"record":{"step":1e999}}',
        "[" * 100_000,
    ]
    Path("spoilt").write_text("\n".join(lines) + '\n{"record":{"st', encoding="utf-8")
    for words in (["judge"], ["report"], ["watch"], ["compare", "other"], ["figures"]):
        copy("healthy", Path("other")) if not Path("other").exists() else None
        assert main([words[0], "spoilt", *words[1:]]) == 0
        told = capsys.readouterr().err
        assert "4 of the lines of 'spoilt' cannot be read and were left out" in told
        assert "Traceback" not in told


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ({"ended": "ValueError", "not_judged": {}}, "The run was ended by ValueError at step 40"),
        ({"ended": "KeyboardInterrupt", "not_judged": {}}, "The run was stopped by hand at step"),
        ({}, "The run goes on or was killed: it wrote no end"),
        ({"ended": "finished", "not_judged": {}}, ""),
        ({"not_judged": {}}, ""),  # as earlier versions wrote
    ],
)
def test_how_a_run_ended_is_said_if_it_did_not_end_well(
    end: dict[str, object], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with history_at(Path("history.jsonl")) as history:
        for step in range(0, 41, 5):
            history.append(record(step))
        if end:
            history.update_meta(end)
    for words in (["judge"], ["judge", "--format", "markdown"], ["report"]):
        assert main([words[0], "history.jsonl", *words[1:]]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert (told in text) if told else ("The run" not in text)
