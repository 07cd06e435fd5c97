"""`lightning-diag judge` says of a stored run what would have been said while it trained."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_runs import copy, store, write
from report_runs import make_finding, make_run

import lightning_diag
from lightning_diag.cli import main
from lightning_diag.cli.judge import Gate
from lightning_diag.cli.replay import replay
from lightning_diag.cli.settings import settings
from lightning_diag.finding import Finding
from lightning_diag.history import History
from lightning_diag.record import Record
from lightning_diag.rules import default_rules

HOME = Path(lightning_diag.__file__).resolve().parent.parent


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    """Run the command, and return its JSON."""
    main([*words, "--format", "json"])
    content = json.loads(capsys.readouterr().out)
    assert isinstance(content, dict)
    return content


def codes(words: list[str], capsys: pytest.CaptureFixture[str]) -> set[str]:
    findings = told(words, capsys)["findings"]
    assert isinstance(findings, list)
    return {finding["code"] for finding in findings}


def test_a_replay_leaves_the_history_as_it_is_and_shows_rules_nothing_of_the_future() -> None:
    history = History()
    for step in range(6):
        history.append(Record(step, {"loss/noise": {"": float(step)}}, {"loss/train": [1.0]}))
        history.note(step, {"validation/val_loss": {"": 10.0 + step}})
    seen: list[tuple[int, list[int], float | None]] = []

    class Looking(type(default_rules()[0])):  # type: ignore[misc]
        code = "looking"
        needs = ()

        def judge(self, history: History) -> list[Finding]:
            note = history.last("validation/val_loss").get("")
            seen.append((history.steps[-1], history.series("loss/train").steps, note))
            return []

    replay(history, [Looking()])
    assert seen[:3] == [(0, [0], None), (0, [0], 10.0), (1, [0, 1], 10.0)]
    assert seen[-1] == (5, [0, 1, 2, 3, 4, 5], 15.0)
    assert history.steps == [0, 1, 2, 3, 4, 5]


def test_judge_needs_no_torch(tmp_path: Path, run_python: Callable[..., str]) -> None:
    code = (
        "import sys; from lightning_diag.cli import main; code = main(['judge', sys.argv[1]]);"
        "print(code, sorted({'torch', 'numpy', 'lightning', 'pytorch_lightning', 'wandb', 'pandas'}"
        " & {*sys.modules}))"
    )
    assert run_python(code, str(copy("high-learning-rate", tmp_path))).endswith("0 []\n")


def test_judge_takes_about_as_long_as_to_start_python_a_few_times(tmp_path: Path) -> None:
    """A second, on a machine that starts Python in 15 ms of processor time."""
    run = copy("high-learning-rate", tmp_path)
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.run([sys.executable, *sys.argv[1:]], stdout=subprocess.DEVNULL, check=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_utime + used.ru_stime)"
    )

    def cost(*words: str) -> float:
        out = subprocess.run(
            [sys.executable, "-c", code, *words],
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
            env={"PYTHONPATH": str(HOME)},
        )
        return float(out.stdout)

    # Without `site`, whose cost is that of the packages installed, starting takes about 10 ms.
    start = max(cost("-c", "pass"), 0.01)
    assert cost("-m", "lightning_diag", "judge", str(run)) < 100 * start


def test_thresholds_are_set_by_words_and_by_files_of_both_kinds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(copy("high-learning-rate", tmp_path))
    assert "learning-rate-too-high" in codes(["judge", run], capsys)
    word = ["judge", run, "--set", "loss-oscillation.swing=0.9"]
    json_file, toml_file = Path("d.json"), Path("d.toml")
    json_file.write_text('{"loss-oscillation": {"swing": 0.9}}', encoding="utf-8")
    toml_file.write_text("[loss-oscillation]\nswing = 0.9\n", encoding="utf-8")
    ways = [word, ["judge", run, "--thresholds", "d.json"]]
    if sys.version_info >= (3, 11):
        ways.append(["judge", run, "--thresholds", "d.toml"])
    for way in ways:
        assert "loss-oscillation" not in codes(way, capsys), way
    over = [*ways[1], "--set", "loss-oscillation.swing=0.1"]
    assert "loss-oscillation" in codes(over, capsys)


def test_what_is_muted_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(copy("high-learning-rate", tmp_path))
    Path("mute.json").write_text('{"mute": ["loss-oscillation"]}', encoding="utf-8")
    words = ["judge", run, "--mute", "loss-spike", "--thresholds", "mute.json"]
    content = told(words, capsys)
    assert content["muted"] == {
        "loss-oscillation": "suspect, seen from step 128 to 399",
        "loss-spike": "note, seen from step 355 to 356",
    }
    assert not codes(words, capsys) & {"loss-oscillation", "loss-spike"}


def test_what_a_rule_of_ones_own_found_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = make_finding("a-rule-of-my-own")
    run = write(make_run(), [own, make_finding("loss-spike")], tmp_path / "run")
    assert codes(["judge", str(run)], capsys) == {"a-rule-of-my-own"}


def test_judge_writes_nothing(tmp_path: Path) -> None:
    run = copy("high-learning-rate", tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    main(["judge", str(run), "--format", "json"])
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("names", "code"),
    [
        ([], 0),
        (["bad"], 0),
        (["suspect"], 1),
        (["note"], 1),
        (["dead-relu"], 1),
        (["vanishing-gradient"], 0),
        (["bad", "vanishing-gradient", "loss-spike"], 1),
    ],
)
def test_fail_on_ends_with_1_when_it_is_found(
    tmp_path: Path, names: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(copy("high-learning-rate", tmp_path))
    words = [word for name in names for word in ("--fail-on", name)]
    assert main(["judge", run, *words]) == code
    assert bool(capsys.readouterr().err) == (code == 1)


def test_a_severity_counts_while_it_lasts_and_a_code_also_later() -> None:
    passed = make_finding("loss-spike", severity="bad", until=400)
    lasts = make_finding("dead-relu", severity="suspect")
    assert not Gate(("note",)).stops(passed)
    assert Gate(("loss-spike",)).stops(passed)
    assert Gate(("note",)).stops(lasts)
    assert Gate(("suspect",)).stops(lasts)
    assert not Gate(("bad",)).stops(lasts)


def test_a_run_of_which_nothing_is_known_passes_no_gate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with History(tmp_path / "history.jsonl") as history:
        history.update_meta({"train_samples": 1})
    assert main(["judge", str(tmp_path), "--fail-on", "bad"]) == 2
    assert "holds no watched step (yet)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--set", "dead-relu"], "`--set` must be CODE.NAME=NUMBER"),
        (["--set", "dead-relu.fraction=much"], "`--set` must be CODE.NAME=NUMBER"),
        (["--set", "dead-rellu.fraction=1"], "did you mean 'dead-relu'?"),
        (["--set", "dead-relu.fractoin=1"], "did you mean 'fraction'?"),
        (["--set", "dead-relu.fraction=7"], "`fraction` must be 0 to 1, got 7.0"),
        (["--set", "dead-relu.patience=1.5"], "`patience` must be whole, got 1.5"),
        (["--set", "dead-relu.fraction=nan"], "`fraction` must be 0 to 1, got nan"),
        (["--mute", "dead-rellu"], "did you mean 'dead-relu'?"),
        (["--fail-on", "worse"], "`--fail-on` must name a severity"),
        (["--thresholds", "gone.json"], "gone.json: No such file or directory."),
        (["--thresholds", "broken.json"], "'broken.json' is not JSON"),
        (["--thresholds", "list.json"], "must hold thresholds by code, got [1]"),
        (["--thresholds", "flat.json"], "'dead-relu' must hold thresholds by name, got 1"),
        (["--thresholds", "text.json"], "`fraction` of 'dead-relu' must be a number, got 'x'"),
        (["--thresholds", "mute.json"], "`mute` must be a list of codes, got 'dead-relu'"),
    ],
)
def test_wrong_settings_are_told_in_one_sentence(
    tmp_path: Path, words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in {
        "broken": "{",
        "list": "[1]",
        "flat": '{"dead-relu": 1}',
        "text": '{"dead-relu": {"fraction": "x"}}',
        "mute": '{"mute": "dead-relu"}',
    }.items():
        Path(f"{name}.json").write_text(text, encoding="utf-8")
    run = str(copy("healthy", tmp_path / "run"))
    assert main(["judge", run, *words]) == 2
    out = capsys.readouterr().err
    assert reason in out
    assert out.count("\n") == 1


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 reads no TOML")
def test_a_toml_file_that_is_none_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.toml").write_text("[dead-relu", encoding="utf-8")
    assert main(["judge", str(copy("healthy", tmp_path)), "--thresholds", "broken.toml"]) == 2
    assert "'broken.toml' is not TOML" in capsys.readouterr().err


def test_without_a_reader_of_toml_json_is_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("diag.toml").write_text("", encoding="utf-8")
    for name in ("tomllib", "tomli"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Exception, match="or write JSON"):
        settings(Path("diag.toml"), [], [])


def test_lines_that_make_no_sense_are_told_and_a_torn_end_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = store("healthy", tmp_path) / "lightning_diag" / "history.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    torn = lines[-1][:20]
    file.write_text("".join([*lines[:-1], torn]), encoding="utf-8")
    assert main(["judge", str(tmp_path)]) == 0
    assert capsys.readouterr().err == ""
    file.write_text("".join([*lines[:9], "{nonsense\n", *lines[9:]]), encoding="utf-8")
    assert main(["judge", str(tmp_path)]) == 0
    assert re.fullmatch(
        r"lightning-diag: 1 of the lines of '.+' cannot be read and were left out, the first of "
        r"them is line 10\.\n",
        capsys.readouterr().err,
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(5000), "is not a history file"),
        (b'{"schema":99}\n', "update lightning_diag to read it"),
        (b"", "holds no watched step (yet)"),
        (b'{"sche', "holds no watched step (yet)"),
    ],
)
def test_a_file_that_cannot_be_judged_is_told_in_one_sentence(
    content: bytes, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("history.jsonl").write_bytes(content)
    for command in (["judge", "."], ["compare", ".", "."]):
        assert main(command) == 2
        out = capsys.readouterr().err
        assert reason in out
        assert out.count("\n") == 1


def test_numbers_that_are_not_finite_stay_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = store("diverged", tmp_path / "run")
    content = told(["judge", str(run)], capsys)
    assert "non-finite" in json.dumps(content)
    assert not [value for value in _numbers(content) if not math.isfinite(value)]


def _numbers(value: object) -> list[float]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in _numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, float) else []
