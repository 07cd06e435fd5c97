"""Nothing that happens to a history's file stops a training: full disks, forks, other programs."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from history_checks import lines_of, record, write

from lightning_diag.history import History
from lightning_diag.record import Record
from lightning_diag.warning import DiagWarning


def test_a_file_that_cannot_be_made_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(DiagWarning, match="goes on in memory only"):
        history = History(tmp_path / "file" / "lightning_diag" / "history.jsonl")
    for step in range(5):
        history.append(record(step))
    history.close()
    assert history.steps == list(range(5))


NOBODY = """
import os, sys, warnings
from lightning_diag.history import History
from lightning_diag.record import Record

if os.getuid() == 0:
    os.setuid(65534)  # root may write everywhere
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    history = History(sys.argv[1])
    for step in range(5):
        history.append(Record(step, {"m": {"": 1.0}}))
print([str(w.category.__name__) for w in said], len(history))
"""


@pytest.mark.parametrize("mode", [0o500, 0o000], ids=["read-only", "closed"])
@pytest.mark.parametrize("existing", [False, True])
def test_a_folder_that_may_not_be_written_is_said_once(
    tmp_path: Path, run_python: Callable[..., str], mode: int, *, existing: bool
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    if existing:
        (folder / "history.jsonl").write_text('{"schema":1}\n')
        (folder / "history.jsonl").chmod(0o400)
    folder.chmod(mode)
    try:
        out = run_python(NOBODY, str(folder / "history.jsonl"))
    finally:
        folder.chmod(0o700)
    assert out.strip() == "['DiagWarning'] 5"


FULL_DISK = """
import resource, sys, warnings
from lightning_diag.history import History
from lightning_diag.record import Record

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    history = History(sys.argv[1], max_bytes=int(sys.argv[3]))
    for step in range(300):
        history.append(Record(step, {"m": {f"p{i}": step + i / 64 for i in range(30)}}))
    history.update_meta({"a": 1})
    history.close()
print([str(w.category.__name__) for w in said], history.steps[-1])
"""


@pytest.mark.parametrize(
    ("space", "limit"), [(20_001, 64_000_000), (9_000, 17_000)], ids=["appending", "thinning"]
)
def test_a_full_disk_leaves_whole_lines_and_a_history_in_memory(
    tmp_path: Path, run_python: Callable[..., str], space: int, limit: int
) -> None:
    """The kernel itself refuses to write more, in the middle of a line."""
    path = tmp_path / "h.jsonl"
    out = run_python(FULL_DISK, str(path), str(space), str(limit))
    assert out.strip() == "['DiagWarning'] 299"
    assert path.read_bytes().endswith(b"\n")
    assert len(History.open(path)) > 10
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_full_when_the_file_is_replaced_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "h.jsonl"
    history = write(path, *range(10))
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(DiagWarning, match="No space left on device"):
        history._thin()
    history.append(record(10))
    assert history.steps[-1] == 10
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_stopped_history_is_thinned_by_its_memory_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(DiagWarning):
        history = History(tmp_path / "file" / "h.jsonl", max_bytes=1_000, max_numbers=4_000)
    for step in range(500):
        history.append(record(step))
        assert history._memory.cost <= 4_000
    assert len(history) >= 40


@pytest.mark.parametrize("how", ["removed", "emptied"])
def test_a_file_that_is_removed_or_emptied_during_the_run_is_written_anew(
    tmp_path: Path, how: str
) -> None:
    path = tmp_path / "h.jsonl"
    history = History(path)
    for step in range(10):
        if step == 5:
            path.unlink() if how == "removed" else path.write_bytes(b"")
        history.append(Record(step, {"m": {"a": 1.0, f"p{step}": 2.0}}))
    history.close()
    read = History.open(path)
    assert read.steps == list(range(10))
    assert read.places("m") == history.places("m")
    assert [line["record"]["step"] for line in lines_of(path) if "record" in line] == read.steps


def test_a_folder_that_is_removed_during_the_run_is_said_once(tmp_path: Path) -> None:
    history = History(tmp_path / "run" / "h.jsonl")
    history.append(record(0))
    shutil.rmtree(tmp_path / "run")
    with pytest.warns(DiagWarning, match="goes on in memory only"):
        history.append(record(1))
    for step in range(2, 5):
        history.append(record(step))
    assert history.steps == list(range(5))
    assert not (tmp_path / "run").exists()


def test_a_file_that_another_program_put_in_its_place_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    history = History(path)
    history.append(record(0))
    (tmp_path / "other").write_text("other")
    (tmp_path / "other").replace(path)
    with pytest.warns(DiagWarning, match="another program has put a file in its place"):
        history.append(record(1))
    assert path.read_text() == "other"
    assert history.steps == [0, 1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks exist on POSIX only")
def test_a_forked_child_never_writes(tmp_path: Path) -> None:
    """Workers of a data loader are forks of the trainer's process."""
    history = History(tmp_path / "h.jsonl", max_bytes=4_000)
    history.append(record(0))
    with warnings.catch_warnings():
        # Python 3.12 warns of forks in a process with threads, which torch has.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            for step in range(1, 200):
                history.append(record(step, -1.0))
            history.resume(50)
            history.update_meta({"child": True})
            history.close()
            code = 0 if history.steps[-1] == 49 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    history.append(record(1, 5.0))
    history.close()
    read = History.open(tmp_path / "h.jsonl")
    assert (read.steps, read.meta) == ([0, 1], {})


def test_an_interrupt_in_the_middle_of_a_line_leaves_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History(tmp_path / "h.jsonl")
    history.append(record(0))
    write_bytes = os.write

    def interrupted(descriptor: int, data: bytes) -> int:
        write_bytes(descriptor, bytes(data)[:30])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            history.append(record(1))
    history.append(record(2))
    history.close()
    assert History.open(tmp_path / "h.jsonl").steps == [0, 2]


def test_an_interrupt_while_the_file_is_replaced_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = write(tmp_path / "h.jsonl", 0, 1)

    def interrupted(path: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            history._rewrite()
    history.append(record(2))
    history.close()
    assert History.open(tmp_path / "h.jsonl").steps == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["h.jsonl"]


def test_what_a_killed_replacement_left_behind_is_removed(tmp_path: Path) -> None:
    write(tmp_path / "h.jsonl", 0)
    (tmp_path / "h.jsonl.tmp").write_text('{"schema":1}\n{"rec')
    write(tmp_path / "h.jsonl", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["h.jsonl"]
    assert History.open(tmp_path / "h.jsonl").steps == [0, 1]


def test_a_reader_sees_a_whole_history_at_any_time(tmp_path: Path) -> None:
    """The file is appended and replaced while it is read, again and again."""
    path = tmp_path / "h.jsonl"
    history = History(path, max_bytes=6_000)
    done, newest, reads = threading.Event(), [0], 0

    def write_on() -> None:
        step = 0
        while not done.is_set():
            history.append(record(step, step + 0.5))
            newest[0] = step
            step += 1

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        while reads < 200 or newest[0] < 2000:
            before = newest[0]
            read = History.open(path)
            series = read.series("m", "a")
            assert not read.steps or read.steps[-1] >= before
            assert series.values == [step + 0.5 for step in series.steps]
            assert read.series("loss/train").values == read.series("loss/train").steps
            reads += 1
    finally:
        done.set()
        writer.join()
        history.close()
