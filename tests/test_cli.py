"""The command line does what its help says, and says in one sentence what it cannot do."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_runs import store

import lightning_diag
from lightning_diag.cli import main
from lightning_diag.cli.replay import replay
from lightning_diag.demo import EXPERIMENTS, train
from lightning_diag.finding import Finding
from lightning_diag.history import History
from lightning_diag.history.file import find
from lightning_diag.rules import DEFAULT_RULES, default_rules


def test_report_writes_the_page_beside_the_history_and_prints_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(store("killed", tmp_path / "version_0"))]) == 0
    page = tmp_path / "version_0" / "lightning_diag" / "report.html"
    sentence = "learning-rate-too-high since step 0, which explains dead-relu"
    assert sentence in page.read_text(encoding="utf-8")
    told = " ".join(capsys.readouterr().out.split())
    assert sentence in told
    assert "version_0/lightning_diag/report.html" in told


@pytest.mark.parametrize("out", ["elsewhere/page.html", "."])
def test_report_writes_the_page_where_it_is_told(tmp_path: Path, out: str) -> None:
    run = store("healthy", tmp_path / "run")
    assert main(["report", str(run / "lightning_diag" / "history.jsonl"), "--out", out]) == 0
    assert (Path("elsewhere/page.html") if out != "." else Path("report.html")).is_file()


def test_report_needs_neither_torch_nor_lightning(
    tmp_path: Path, run_python: Callable[..., str]
) -> None:
    code = (
        "import sys; from lightning_diag.cli import main; code = main(['report', sys.argv[1]]);"
        "print(code, sorted({'torch', 'numpy', 'lightning', 'pytorch_lightning'} & {*sys.modules}))"
    )
    assert run_python(code, str(store("healthy", tmp_path / "run"))).endswith("0 []\n")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["report", "nowhere"], "There is no file or folder 'nowhere'."),
        (["report", "."], "The folder '.' holds no lightning_diag/history.jsonl"),
        (["report", "notes.txt"], "'notes.txt' is not a history file"),
        (["report", "run", "--out", "notes.txt/page.html"], "notes.txt"),
        (["demo", "--out", "notes.txt"], "notes.txt: File exists."),
        (["explain", "dead-rellu"], "no finding 'dead-rellu': did you mean 'dead-relu'?"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "run" in words:
        store("healthy", Path("run"))
    Path("notes.txt").write_text("not a history\n", encoding="utf-8")
    assert main(words) == 2
    told = capsys.readouterr().err
    assert told.startswith("lightning-diag: ")
    assert reason in told
    assert told.count("\n") == 1


def test_the_demo_says_which_package_it_misses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["demo"]) == 2
    assert "pip install 'lightning-diag[demo]'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run the demo once; return its folder and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        assert main(["demo", "--out", str(folder)]) == 0
    return folder, told.getvalue()


def causes(history: History) -> set[str]:
    """Return the codes that nothing else explains, without what is only good to know."""
    return {f.code for f in history.findings if f.caused_by is None and f.severity != "note"}


def check_findings(folder: Path) -> None:
    """Check what each training of the demo is there to show (W1, W5)."""
    runs = {each.name: History.open(folder / each.name) for each in EXPERIMENTS}
    assert runs["healthy"].findings == []
    assert causes(runs["deep-sigmoid"]) == {"vanishing-gradient"}
    (starved,) = [f for f in runs["deep-sigmoid"].findings if f.code == "vanishing-gradient"]
    assert starved.places[0] == "net.0.weight"
    assert causes(runs["high-learning-rate"]) == {"learning-rate-too-high"}
    found = {finding.code: finding for finding in runs["high-learning-rate"].findings}
    assert found["dead-relu"].caused_by == "learning-rate-too-high"
    shares = runs["high-learning-rate"].last("dead_relu/fraction").values()
    assert 0.3 < sum(shares) / len(shares) < 0.5


def gist(finding: Finding) -> dict[str, object]:
    """Return a finding without its text, in which a rounded number may read differently."""
    numbers = finding.evidence
    return {
        **finding.to_dict(),
        "message": "",
        "because": (),
        "evidence": pytest.approx((numbers.value, numbers.threshold, numbers.window), rel=1e-3),
    }


def test_judging_a_stored_run_again_finds_what_was_found_while_it_trained(
    demo: tuple[Path, str],
) -> None:
    for experiment in EXPERIMENTS:
        history = History.open(demo[0] / experiment.name)
        diagnosis = replay(history, default_rules())
        stored = {finding.code: gist(finding) for finding in history.findings}
        for found in diagnosis.findings:
            numbers = found.evidence
            plain = (numbers.value, numbers.threshold, numbers.window)
            assert {**gist(found), "evidence": plain} == stored.pop(found.code)
        assert stored == {}
        reasons = {item.code: item.reason for item in diagnosis.not_observed}
        assert reasons == history.meta["not_judged"]


def test_the_demo_shows_a_healthy_a_starved_and_a_killed_net(demo: tuple[Path, str]) -> None:
    check_findings(demo[0])
    assert "No problem found" in demo[1]
    assert re.search(r"vanishing-gradient since step \d+", demo[1])
    assert re.search(r"learning-rate-too-high since step \d+, which explains dead-relu", demo[1])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_the_demo_needs_no_lucky_seed(tmp_path: Path, seed: int) -> None:
    assert main(["demo", "--out", str(tmp_path), "--seed", str(seed)]) == 0
    check_findings(tmp_path)


def test_the_demo_says_where_its_pages_are(demo: tuple[Path, str]) -> None:
    folder, told = demo
    links = [line.strip() for line in told.splitlines() if line.startswith("  file://")]
    assert links == [page.as_uri() for page in sorted_pages(folder)]
    assert all("<svg" in page.read_text(encoding="utf-8") for page in sorted_pages(folder))


def sorted_pages(folder: Path) -> list[Path]:
    names = ("healthy", "deep-sigmoid", "high-learning-rate")
    return [folder / name / "lightning_diag" / "report.html" for name in names]


def test_the_demo_trains_anew_in_the_same_folder(demo: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(demo[0] / "healthy", tmp_path / "healthy")
    doctor, _ = train(EXPERIMENTS[0], tmp_path / "healthy", seed=1, epochs=1)
    newest = find(tmp_path / "healthy")
    assert max(History.open(newest).steps) == max(doctor.history.steps) == 21
    assert len(list((tmp_path / "healthy").glob("*/report.html"))) == 2


def test_explain_prints_the_page_of_a_rule(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "dead-relu"]) == 0
    told = capsys.readouterr().out
    page = (root / "docs" / "findings" / "dead-relu.md").read_text(encoding="utf-8")
    unlinked = re.sub(r"\[([a-z-]+)\]\([a-z-]+\.md\)", r"`\1`", page)
    assert told.split() == unlinked.split()
    for heading in ("What it sees", "Why it matters", "What to do", "References", "Thresholds"):
        assert f"\n## {heading}\n" in told


def test_explain_without_a_code_lists_all_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(rule.code for rule in DEFAULT_RULES)
    assert all(line.endswith(".") for line in lines)


def test_explain_needs_neither_torch_nor_lightning(run_python: Callable[..., str]) -> None:
    code = (
        "import sys; from lightning_diag.cli import main; code = main(['explain', 'dead-relu']);"
        "print(code, sorted({'torch', 'numpy', 'lightning', 'pytorch_lightning'} & {*sys.modules}))"
    )
    assert run_python(code).endswith("0 []\n")


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        main(["--help"])
    assert leave.value.code == 0
    told = capsys.readouterr().out
    assert "lightning-diag demo --out diagnosis" in told
    assert "lightning-diag report lightning_logs/version_3" in told


@pytest.mark.parametrize("words", [[], ["reprot"], ["report"], ["demo", "--seed", "x"]])
def test_wrong_words_end_with_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        main(words)
    assert leave.value.code == 2
    assert "usage: lightning-diag" in capsys.readouterr().err


def test_figures_are_drawn_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    store("healthy", Path("run"))
    assert main(["figures", "run", "--out", "drawn", "--format", "svg"]) == 0
    named = capsys.readouterr().out.split()
    assert sorted(named) == sorted(str(path) for path in Path("drawn").iterdir())
    assert str(Path("drawn", "loss.svg")) in named
    assert all(Path(name).read_text(encoding="utf-8").startswith("<?xml") for name in named)


def test_figures_without_matplotlib_name_the_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store("healthy", Path("run"))
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["figures", "run", "--out", "drawn"]) == 2
    assert "lightning-diag[plots]" in capsys.readouterr().err
    assert not Path("drawn").exists()


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"lightning-diag {lightning_diag.__version__}\n"


def test_the_module_runs_like_the_command(tmp_path: Path, run_python: Callable[..., str]) -> None:
    code = (
        "import runpy, sys\n"
        "try:\n"
        "    runpy.run_module('lightning_diag', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as leave:\n"
        "    print(leave.code)"
    )
    out = run_python(code, "report", str(store("healthy", tmp_path / "run")))
    assert "No problem found" in out
    assert out.endswith("\n0\n")
