"""A history's file: read after a crash, without torch, continued, found, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from history_checks import lines_of, record, write

import lightning_diag
from lightning_diag.history import History, Series
from lightning_diag.warning import DiagWarning

HOME = Path(lightning_diag.__file__).resolve().parent.parent

ONLY_STANDARD_LIBRARY = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top != "lightning_diag":
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
"""

WRITER = (
    ONLY_STANDARD_LIBRARY
    + """
from lightning_diag.history import History
from lightning_diag.record import Record

history = History(sys.argv[1], max_bytes=int(sys.argv[2]))
step = history.steps[-1] + 1 if len(history) else 0
while True:
    numbers = {f"net.{i}.weight": step + i / 64 for i in range(100)}
    history.append(Record(step, {"gradient/norm": numbers}, {"loss/train": [float(step)]}))
    step += 1
    if step % 100 == 0:
        print(step, flush=True)
"""
)


def kill_in_the_middle(path: Path, max_bytes: int) -> int:
    """Start a writer, kill it while it writes, and return the last step it is known to have."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(max_bytes)],
        env={**os.environ, "PYTHONPATH": str(HOME)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    lines = [writer.stdout.readline() for _ in range(5)]
    writer.send_signal(signal.SIGKILL)
    rest = writer.communicate(timeout=60)[0]
    assert writer.returncode == -signal.SIGKILL
    return int((lines + rest.split())[-1]) - 1


@pytest.mark.parametrize("max_bytes", [64_000_000, 30_000], ids=["growing", "thinned all the time"])
def test_a_killed_run_is_read_without_torch_or_lightning(
    tmp_path: Path, max_bytes: int, run_python: Callable[..., str]
) -> None:
    path = tmp_path / "lightning_diag" / "history.jsonl"
    last = kill_in_the_middle(path, max_bytes)
    code = (
        ONLY_STANDARD_LIBRARY
        + """
from lightning_diag.history import History
history = History.open(sys.argv[1])
print(history.steps[-1], len(history), history.last("gradient/norm")["net.64.weight"])
assert not {"torch", "lightning", "pytorch_lightning"} & set(sys.modules)
"""
    )
    step, count, value = map(float, run_python(code, str(tmp_path)).split())
    assert step >= last
    assert value == pytest.approx(step + 1, rel=1e-5)
    with path.open() as file:
        bare = [json.loads(text) for text in file if text.endswith("\n")]
    steps = [line["record"]["step"] for line in bare if "record" in line]
    assert (steps[-1], len(steps)) == (step, count)


def test_a_killed_run_goes_on_without_a_doubled_or_lost_step(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    for _ in range(3):
        last = kill_in_the_middle(path, 64_000_000)
    history = History.open(path)
    assert history.steps == list(range(len(history)))
    assert history.steps[-1] >= last
    assert history.series("loss/train").values == history.steps
    assert all("schema" not in line for line in lines_of(path)[1:])


@pytest.mark.parametrize(
    "modules", [["lightning_diag.history"], ["lightning_diag.finding", "lightning_diag.record"]]
)
def test_history_and_findings_need_the_standard_library_only(modules: list[str]) -> None:
    code = f"""{ONLY_STANDARD_LIBRARY}
import {", ".join(modules)}
others = {{name.partition(".")[0] for name in sys.modules}} - sys.stdlib_module_names
print(sorted(others - {{"__main__"}}))
"""
    out = subprocess.run(
        [sys.executable, "-S", "-W", "error", "-c", code],
        env={"PYTHONPATH": str(HOME)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert out.stdout.strip() == "['lightning_diag']"


def test_the_import_check_can_fail() -> None:
    code = f"{ONLY_STANDARD_LIBRARY}\nimport torch"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: torch" in out.stderr


def test_a_file_torn_at_any_byte_is_read_repaired_and_continued(tmp_path: Path) -> None:
    write(tmp_path / "whole.jsonl", 0, 1, 2)
    whole = (tmp_path / "whole.jsonl").read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    path = tmp_path / "torn.jsonl"
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        complete = max((end for end in ends if end <= cut), default=0)
        steps = list(range(whole[:complete].count(b'{"record"')))
        assert History.open(path).steps == steps
        with History(path) as history:
            assert history.steps == steps
            history.append(record(7))
        assert path.read_bytes().startswith(whole[:complete])
        assert lines_of(path)[-1]["record"]
        assert History.open(path).steps == [*steps, 7]


def test_resume_after_a_crash_takes_the_steps_again(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    write(path, *range(10))
    path.write_bytes(path.read_bytes()[:-20])
    with History.continue_from(path, path, 6) as history:
        for step in range(6, 12):
            history.append(record(step, -1.0))
    assert history.steps == list(range(12))
    assert history.series("m", "a").values == [s + 0.5 for s in range(6)] + [-1.0] * 6
    assert {"resume": 6} in lines_of(path)
    assert History.open(path).series("m", "a") == history.series("m", "a")
    assert History.open(path).series("loss/train").values == list(range(12))


def test_a_run_goes_on_in_another_folder(tmp_path: Path) -> None:
    """P2: a resumed run in a new folder shows the steps before, and leaves the old file alone."""
    old, new = tmp_path / "version_0", tmp_path / "version_1" / "lightning_diag" / "history.jsonl"
    write(old / "lightning_diag" / "history.jsonl", *range(10))
    torn = (old / "lightning_diag" / "history.jsonl").read_bytes()[:-20]
    (old / "lightning_diag" / "history.jsonl").write_bytes(torn)
    with History.continue_from(old, new, 6) as history:
        assert (history.steps, history.meta) == (list(range(6)), {"trainer": {"precision": "32"}})
        history.append(record(6, -1.0))
    assert (old / "lightning_diag" / "history.jsonl").read_bytes() == torn
    read = History.open(new)
    assert read.steps == list(range(7))
    assert read.meta == history.meta
    assert read.last("m") == {"a": -1.0}


def test_a_linked_folder_is_the_same_folder(tmp_path: Path) -> None:
    write(tmp_path / "run" / "history.jsonl", *range(4))
    (tmp_path / "latest").symlink_to(tmp_path / "run")
    new = tmp_path / "latest" / "history.jsonl"
    History.continue_from(tmp_path / "run" / "history.jsonl", new, 2).close()
    assert lines_of(new)[-1] == {"resume": 2}
    assert History.open(new).steps == [0, 1]


def test_continuing_obeys_the_limits(tmp_path: Path) -> None:
    write(tmp_path / "old.jsonl", *range(300))
    new = tmp_path / "new.jsonl"
    history = History.continue_from(tmp_path / "old.jsonl", new, 250, max_bytes=8_000)
    assert new.stat().st_size <= 8_000
    history.append(record(250))
    history.close()
    assert history.steps[:16] == list(range(16))
    assert history.steps[-2:] == [249, 250]
    assert History.open(new).steps == history.steps


def test_a_link_to_a_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "h.jsonl").symlink_to(tmp_path / "scratch" / "h.jsonl")
    with History(tmp_path / "h.jsonl", max_bytes=1_000) as history:
        for step in range(50):
            history.append(record(step))
    assert (tmp_path / "h.jsonl").is_symlink()
    assert History.open(tmp_path / "scratch" / "h.jsonl").steps == history.steps


def test_a_program_may_change_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    history = History("h.jsonl", max_bytes=1_000)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for step in range(50):
        history.append(record(step))
    history.close()
    assert History.open(tmp_path / "h.jsonl").steps == history.steps
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_closed_history_opens_its_file_again(tmp_path: Path) -> None:
    history = write(tmp_path / "h.jsonl", 0)
    history.append(record(1))
    history.close()
    history.close()
    assert History.open(tmp_path / "h.jsonl").steps == [0, 1]


# --- finding the file


def test_a_history_is_found_from_the_folder_of_its_run_and_above(tmp_path: Path) -> None:
    file = tmp_path / "lightning_logs" / "version_0" / "lightning_diag" / "history.jsonl"
    write(file, 3)
    for path in (file, *list(file.parents)[:4]):
        assert History.open(path).steps == [3]


def test_of_several_runs_the_one_written_last_is_opened(tmp_path: Path) -> None:
    for i in (2, 0, 1):
        path = tmp_path / f"version_{i}" / "lightning_diag" / "history.jsonl"
        write(path, i)
        os.utime(path, ns=(0, 10**18 + (i == 0)))
    assert History.open(tmp_path).steps == [0]


def test_a_numbered_folder_is_found_too(tmp_path: Path) -> None:
    write(tmp_path / "lightning_diag" / "history.jsonl", 1)
    os.utime(tmp_path / "lightning_diag" / "history.jsonl", ns=(0, 0))
    write(tmp_path / "lightning_diag-1" / "history.jsonl", 2)
    assert History.open(tmp_path).steps == [2]


def test_a_missing_history_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no file or folder '.*nowhere'\.$"):
        History.open(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no lightning_diag/history\.jsonl; name"):
        History.open(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no file or folder"):
        History.continue_from(tmp_path / "nowhere", tmp_path / "h.jsonl", 0)


GARBLED = [
    b"hello",
    b"hello\n",
    b"\x00" * 9000,
    b"[1]\n",
    b"1\n",
    b'{"record": {}}\n',
    b'{"schema": "x"}\n',
    b'{"schema": 0}\n',
    b'{"schema": 1e999}\n',
    b"[" * 4000 + b"\n",
    b"\xff\xfe\n",
]


@pytest.mark.parametrize("content", GARBLED, ids=lambda content: repr(content[:12]))
@pytest.mark.parametrize("use", [History, History.open])
def test_another_kind_of_file_is_refused_and_left_alone(
    tmp_path: Path, content: bytes, use: Callable[[Path], History]
) -> None:
    path = tmp_path / "h.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a history file: its first line names no schema"):
        use(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("use", [History, History.open])
def test_a_newer_schema_is_refused(tmp_path: Path, use: Callable[[Path], History]) -> None:
    (tmp_path / "h.jsonl").write_text('{"schema": 2, "more": true}\n{"records": 1}\n')
    with pytest.raises(ValueError, match=r"has schema 2 .* update lightning_diag to read it\.$"):
        use(tmp_path / "h.jsonl")


def test_a_folder_is_refused_as_the_file_to_write(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a file, got the folder"):
        History(tmp_path)


HEAD = '{"record": {"step": 9, "epoch": 0, "seconds": 0, "optimizer_steps": [], '
BROKEN_LINES = [
    "{",
    "\x00\x00",
    "[]",
    '{"record": {}}',
    HEAD + '"values": {"m": [1, 2]}}}',
    HEAD + '"values": {"m": ["x"]}}}',
    HEAD + '"values": {"unknown": [1]}}}',
    HEAD + '"values": {}, "dense": {"loss/train": {"steps": [2, 1], "values": [1, 2]}}}}',
    HEAD + '"values": {}, "dense": {"loss/train": {"steps": [1e30], "values": [1]}}}}',
    HEAD + '"values": {}, "dense": {"loss/train": {"steps": [8, 9], "values": [1]}}}}',
    HEAD.replace("9", "1e999") + '"values": {}}}',
    '{"layout": 3}',
    '{"meta": 3}',
    '{"finding": {"code": "x"}}',
    '{"dense": {"loss/train": [null]}}',
]


@pytest.mark.parametrize("broken", BROKEN_LINES)
def test_a_line_that_makes_no_sense_is_left_out_with_a_warning(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "h.jsonl"
    write(path, 0, 1)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], broken, lines[-1]]) + "\n")
    with pytest.warns(DiagWarning, match=r"1 of the lines of .* the first of them is line 5\.$"):
        history = History.open(path)
    assert history.series("m", "a") == Series([0, 1], [0.5, 1.5])
    assert history.series("loss/train") == Series([0, 1], [0.0, 1.0])


def test_kinds_of_lines_and_keys_of_later_versions_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    write(path, 0)
    text = path.read_text().replace('"epoch"', '"later": [1], "epoch"')
    path.write_text(text + '{"weather": "fine"}\n')
    assert History.open(path).steps == [0]
