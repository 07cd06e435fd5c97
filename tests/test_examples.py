"""The examples run as they stand, and those of the clinic say what they are there to say."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import warm

import lightning_diag
from lightning_diag.history import History

ROOT = Path(__file__).resolve().parent.parent
# Those without a doctor, which train nothing, and the one with a finding have tests of their own.
EXAMPLES = [
    p
    for p in sorted((ROOT / "examples").glob("*.py"))
    if "Doctor(" in p.read_text("utf-8") and p.stem != "metric_learning"
]
CLINIC = ROOT / "examples" / "clinic"
HOME = Path(lightning_diag.__file__).resolve().parent.parent

VERDICTS = {
    "zero_lenet": ["symmetric-init"],
    "loud_last_layer": ["init-scale"],
    "tanh_weights": ["init-scale", "init-scale"],
    "relu_xavier": ["collapsed-activation"],
    "deep_sigmoid": ["vanishing-gradient"],
    "learning_rates": [
        "learning-rate-too-low", "learning-rate-too-high", "dead-relu or learning-rate-too-high",
    ],
    "twenty_samples": ["overfitting"],
    "thousand_samples": ["overfitting"],
    "one_by_one": ["noisy-gradient"],
    "forgetful_rnn": ["vanishing-gradient"],
    "unnormalised": ["unnormalised-input"],
    "wrong_statistics": ["train-validation-shift"],
    "tiny_batch_norm": ["batch-norm-gap"],
    "softmax_twice": ["output-activation-mismatch"],
}  # fmt: skip
"""Verdicts on the sick runs of each example of the clinic; its last run is healthy."""
QUICK = ["zero_lenet", "softmax_twice"]
"""Two of those that take 2 or 3 seconds; the clinic's tests train more such lessons."""
KNOWN: dict[str, str] = {}
"""What is not right yet; a test fails once it is, so that the list stays true."""
ALL_OF_THEM = """
import runpy, sys
folder, out, *names = sys.argv[1:]
sys.path.insert(0, folder)
for name in names:
    sys.modules.pop("two_runs", None)  # it reads its arguments when it is imported
    sys.argv = [name, "--out", f"{out}/{name}"]
    runpy.run_path(f"{folder}/{name}.py", run_name="__main__")
"""


def _run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(HOME), "OMP_NUM_THREADS": "1"}
    result = warm.run_python(arguments, folder, environment, strict=False)
    assert result.returncode == 0, result.stderr
    assert "DiagWarning" not in result.stderr
    return result


def _verdict(history: History) -> str:
    """Return the code of the most upstream finding, above `note` if there is one."""
    roots = [f for f in history.findings if f.caused_by is None]
    serious = [f for f in roots if f.severity != "note"]
    return next((f.code for f in [*serious, *roots]), "")


def _told(name: str, out: Path) -> tuple[list[str], list[str]]:
    """Return the verdicts on the sick runs, and what was found above `note` in the treated one.

    A verdict that is one of several right ones is given as all of them.
    """
    folders = sorted(out.glob("*/lightning_diag"))
    assert all((folder / "report.html").exists() for folder in folders)
    *sick, treated = [History.open(folder) for folder in folders]
    verdicts = [
        right if (said := _verdict(history)) in right.split(" or ") else said
        for history, right in zip(sick, VERDICTS[name], strict=True)
    ]
    return verdicts, [f.code for f in treated.findings if f.severity != "note"]


def _marked(names: Sequence[str]) -> list[object]:
    marks = {name: pytest.mark.xfail(reason=why, strict=True) for name, why in KNOWN.items()}
    return [pytest.param(n, marks=marks[n]) if n in marks else pytest.param(n) for n in names]


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(path, marks=[pytest.mark.slow] * (path.stem == "transfer_learning"))
        for path in EXAMPLES
    ],
    ids=lambda path: path.stem,
)
def test_an_example_runs_finds_nothing_and_leaves_a_report(example: Path, tmp_path: Path) -> None:
    result = _run(str(example), folder=tmp_path)
    assert "No problem found" in result.stdout
    (page,) = tmp_path.glob("lightning_logs/version_0/lightning_diag/report.html")
    assert "No problem found" in page.read_text(encoding="utf-8")


def test_the_quick_examples_of_the_clinic_get_the_right_verdict_and_are_cured(
    tmp_path: Path,
) -> None:
    """Lessons that everybody learns (W1 to W15, C1 to C7)."""
    _run("-c", ALL_OF_THEM, str(CLINIC), str(tmp_path), *QUICK, folder=tmp_path)
    told = {name: _told(name, tmp_path / name) for name in QUICK}
    assert told == {name: (VERDICTS[name], []) for name in QUICK}


@pytest.mark.slow
@pytest.mark.parametrize("name", _marked(list(VERDICTS)))
def test_an_example_of_the_clinic_gets_the_right_verdict_and_is_cured(
    name: str, tmp_path: Path
) -> None:
    result = _run(str(CLINIC / f"{name}.py"), folder=tmp_path)
    assert _told(name, tmp_path / "lightning_logs" / "clinic" / name) == (VERDICTS[name], [])
    titles = re.findall(r"^(\w+): .+\n=+$", result.stdout, flags=re.MULTILINE)
    assert titles == ["Sick"] * len(VERDICTS[name]) + ["Treated"]
    assert result.stdout.count("  Outcome ") == len(titles)


def test_every_example_of_the_clinic_is_tested_and_told_of_in_the_docs() -> None:
    files = {path.stem for path in CLINIC.glob("*.py")} - {"two_runs"}
    assert files == set(VERDICTS)
    page = (ROOT / "docs" / "clinic.md").read_text(encoding="utf-8")
    sections = {
        match[1]: section
        for section in page.split("\n## ")
        if (match := re.search(r"examples/clinic/(\w+)\.py\)", section))
    }
    assert set(sections) == files
    for name, section in sections.items():
        assert f'src="images/clinic/{name}.png"' in section
        words = set(re.findall(r"[a-z-]+", section))
        assert all(words & set(right.split(" or ")) for right in VERDICTS[name]), name


def test_the_pictures_of_the_clinic_are_small() -> None:
    pictures = list((ROOT / "docs" / "images" / "clinic").glob("*"))
    assert {path.stem for path in pictures} == set(VERDICTS)
    assert all(path.stat().st_size < 60_000 for path in pictures)
