"""The examples run as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_diag

EXAMPLES = sorted((Path(__file__).resolve().parent.parent / "examples").glob("*.py"))
HOME = Path(lightning_diag.__file__).resolve().parent.parent


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_finds_nothing_and_leaves_a_report(example: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(example)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(HOME), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "DiagWarning" not in result.stderr
    assert "No problem found" in result.stdout
    (page,) = tmp_path.glob("lightning_logs/version_0/lightning_diag/report.html")
    assert "No problem found" in page.read_text(encoding="utf-8")
