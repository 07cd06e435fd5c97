"""The page on the history file: its examples run and print what it says."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_diag.history import History
from lightning_diag.record import Record


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def page(root: Path, tmp_path: Path) -> str:
    """Return the page, and write its example file to the current folder."""
    text = (root / "docs" / "history.md").read_text(encoding="utf-8")
    (tmp_path / "history.jsonl").write_text(blocks(text, "json")[0])
    return text


def test_the_example_file_of_the_page_is_what_a_history_writes(tmp_path: Path, page: str) -> None:
    with History(tmp_path / "written.jsonl") as history:
        history.update_meta({"train_samples": 1000})
        norms = {"net.0.weight": 0.5, "net.0.bias": 0.25}
        history.append(
            Record(0, {"gradient/norm": norms}, {"loss/train": [2.25]}, {}, 0, 0.0, (1,))
        )
        norms = {"net.0.weight": 0.75}
        losses = {"loss/train": [2.0, 1.75]}
        history.append(Record(2, {"gradient/norm": norms}, losses, {}, 0, 0.2, (3,)))
        history.resume(2)
        norms = {"net.0.weight": float("nan"), "net.0.bias": 0.125}
        losses = {"loss/train": [1.5]}
        units = {"dead_relu/units": {"net.1/relu#0": [3.0, 7.0]}}
        history.append(Record(2, {"gradient/norm": norms}, losses, units, 0, 0.2, (3,)))
    assert (tmp_path / "written.jsonl").read_text() == (tmp_path / "history.jsonl").read_text()


def test_the_python_of_the_page_prints_what_it_says(
    page: str, run_python: Callable[..., str]
) -> None:
    plain, with_pandas, with_history, frame, table, *_ = blocks(page, "python")
    expected = blocks(page, "text")
    assert run_python(plain) == expected[0]
    assert run_python(plain + with_pandas).removeprefix(expected[0]) == expected[2]
    assert run_python(with_history) == expected[3]
    for code, output in ((frame, expected[4]), (table, expected[5])):
        lines = run_python(with_history + code).removeprefix(expected[3]).splitlines()
        assert [line.rstrip() for line in lines] == output.splitlines()


def test_the_files_of_the_page_are_written(
    page: str, run_python: Callable[..., str], tmp_path: Path
) -> None:
    _, _, with_history, _, _, *files = blocks(page, "python")
    assert len(files) == 3
    run_python(with_history + "".join(files))
    assert (tmp_path / "run.parquet").read_bytes().startswith(b"PAR1")
    assert (tmp_path / "update-ratio.csv").read_text().startswith("step")
    assert b"<svg" in (tmp_path / "loss.svg").read_bytes()
    assert (tmp_path / "gradient.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "profile.pdf").read_bytes().startswith(b"%PDF")
    assert list((tmp_path / "runs").iterdir())


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_the_jq_of_the_page_prints_what_it_says(page: str) -> None:
    (command,) = blocks(page, "sh")
    out = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=True, timeout=60
    )
    assert out.stdout == blocks(page, "text")[1]
