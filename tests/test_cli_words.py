"""Runs are found where users point, rules are listed, and shells complete what is typed."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from cli_runs import copy, store

import lightning_diag
from lightning_diag.cli import main
from lightning_diag.cli.completion import commands
from lightning_diag.cli.parser import build
from lightning_diag.cli.rules import severities
from lightning_diag.cli.runs import locate
from lightning_diag.history import History
from lightning_diag.rules import DEFAULT_RULES

COMMANDS = (
    *("report", "watch", "judge", "check", "compare", "explain", "rules", "figures"),
    *("demo", "wandb", "completion"),
)
TRAINING = {"check", "demo", "wandb"}
"""Commands that are no use where there is no training."""
HOME = Path(lightning_diag.__file__).resolve().parent.parent

# --- help ---


def parsers() -> dict[str, argparse.ArgumentParser]:
    (action,) = (a for a in build()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


def test_the_commands_are_those_of_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(parsers()) == sorted(COMMANDS)
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    for name in COMMANDS:
        assert re.search(rf"^    {name}\s+\w", told, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_command_has_examples_that_it_accepts(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leave:
        main([name, "--help"])
    assert leave.value.code == 0
    examples = capsys.readouterr().out.partition("examples:\n")[2]
    lines = re.findall(r"^  (?:ssh \S+ -t )?lightning-diag (.+)$", examples, re.MULTILINE)
    assert lines
    for line in lines:
        options = build().parse_args(re.split(r"\s+(?:>|#)", line)[0].split())
        assert options.command == name


def test_help_says_what_each_option_is() -> None:
    for parser in parsers().values():
        assert not [action for action in parser._actions if not action.help]


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in TRAINING])
def test_what_reads_histories_imports_no_torch(
    name: str, tmp_path: Path, run_python: Callable[..., str]
) -> None:
    runs = [str(copy(run, tmp_path / run)) for run in ("healthy", "high-learning-rate")]
    words = {"explain": ["dead-relu"], "rules": [], "completion": ["fish"], "compare": runs}
    code = (
        "import sys; from lightning_diag.cli import main; code = main(sys.argv[1:]);"
        "print(code, sorted({'torch', 'numpy', 'lightning', 'pytorch_lightning', 'wandb', 'pandas'}"
        " & {*sys.modules}))"
    )
    drawn_with = ["numpy"] if name == "figures" else []  # matplotlib's own
    assert run_python(code, name, *words.get(name, runs[:1])).endswith(f"0 {drawn_with}\n")


# --- runs ---


@pytest.mark.parametrize(
    "path",
    [
        "lightning_logs/version_0/lightning_diag/history.jsonl",
        "lightning_logs/version_0/lightning_diag",
        "lightning_logs/version_0",
        "lightning_logs",
        ".",
    ],
)
def test_a_run_is_found_from_all_folders_above_it(path: str) -> None:
    store("healthy", Path("lightning_logs/version_0"))
    assert locate(Path(path)).samefile("lightning_logs/version_0/lightning_diag/history.jsonl")


def test_of_several_runs_one_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("version_0", "version_1"):
        store("healthy", Path("logs") / name)
    for command in ("report", "judge", "watch"):
        assert main([command, "logs"]) == 2
        told = capsys.readouterr().err
        assert "The folder 'logs' holds 2 runs: name one of them" in told
        assert "version_1" in told
    assert main(["judge", "logs/version_0"]) == 0


def test_a_run_nearby_counts_before_runs_deeper_down() -> None:
    store("healthy", Path("logs"))
    store("healthy", Path("logs/deeper"))
    assert locate(Path("logs")) == Path("logs/lightning_diag/history.jsonl")


def test_a_path_that_may_not_be_read_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", "nothing\x1b[2J"]) == 2
    told = capsys.readouterr().err
    assert "There is no file or folder" in told
    assert "\x1b" not in told


# --- rules ---


def test_rules_lists_each_rule_with_its_thresholds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "--format", "json"]) == 0
    rows = {row["code"]: row for row in json.loads(capsys.readouterr().out)}
    assert sorted(rows) == sorted(rule.code for rule in DEFAULT_RULES)
    for rule in DEFAULT_RULES:
        row = rows[rule.code]
        told = {name: known["default"] for name, known in row["thresholds"].items()}
        assert told == {field.name: field.default for field in fields(rule)}
        assert all(known["text"] for known in row["thresholds"].values())
        assert row["severities"]
        assert row["summary"].endswith(".")


def test_rules_are_also_a_table_and_a_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "--format", "markdown"]) == 0
    head, line, *rows = capsys.readouterr().out.splitlines()
    assert len(rows) == len(DEFAULT_RULES)
    assert {row.count(" | ") for row in (head, *rows)} == {3}
    assert set(line) == {"|", "-"}
    assert main(["rules"]) == 0
    text = capsys.readouterr().out
    assert re.findall(r"^([a-z-]+)  [A-Z]", text, re.MULTILINE) == sorted(
        rule.code for rule in DEFAULT_RULES
    )
    assert "dead-relu  BAD, SUSPECT, NOTE\n" in text
    assert "fraction=0.25, bad_fraction=0.4" in text


def test_severities_are_those_that_a_rule_gives() -> None:
    known = {rule.code: set(severities(rule)) for rule in DEFAULT_RULES}
    for run in ("healthy", "high-learning-rate"):
        for finding in History.open(copy(run, Path(run))).findings:
            assert finding.severity in known[finding.code]
    assert known["rank-divergence"] == {"bad"}
    assert known["not-zero-centred"] == {"note"}
    assert known["learning-rate-too-high"] == {"bad", "suspect", "note"}


# --- W&B ---

TO_WANDB = ["wandb", "workspace", "--entity", "team", "--project", "digits"]


def workspaces(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[bool | None], object]
) -> list[tuple[str, str, bool | None]]:
    """Put a stand-in in the place of what talks to W&B; return what it is asked."""
    asked: list[tuple[str, str, bool | None]] = []

    def workspace(entity: str, project: str, *, send: bool | None = None) -> object:
        asked.append((entity, project, send))
        return answer(send)

    module = ModuleType("workspace")
    monkeypatch.setattr(module, "workspace", workspace, raising=False)
    monkeypatch.setitem(sys.modules, "lightning_diag.loggers.workspace", module)
    return asked


def test_a_workspace_that_was_saved_is_linked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = SimpleNamespace(spec={}, url="https://example.org/w", chart="no chart was saved")
    asked = workspaces(monkeypatch, lambda send: sent)
    assert main(TO_WANDB) == 0
    told = capsys.readouterr()
    assert told.out == "https://example.org/w\n"
    assert told.err == "lightning-diag: no chart was saved.\n"
    assert asked == [("team", "digits", None)]


def test_what_would_be_sent_is_printed_or_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = SimpleNamespace(spec={"view": 1}, url=None, chart="")
    asked = workspaces(monkeypatch, lambda send: sent)
    assert main([*TO_WANDB, "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out) == {"view": 1}
    assert main([*TO_WANDB, "--out", "spec.json"]) == 0
    assert json.loads(Path("spec.json").read_text(encoding="utf-8")) == {"view": 1}
    assert [send for _, _, send in asked] == [False, False]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ImportError("run `pip install it`"), "run `pip install it`"),
        (ValueError("`entity` must name one"), "`entity` must name one"),
        (ConnectionError("refused"), "refused"),
        (RuntimeError("no key\nat all"), "W&B did not save it: RuntimeError: no key at all"),
    ],
)
def test_what_wandb_does_not_do_is_told_in_one_sentence(
    error: Exception,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(send: bool | None) -> object:
        raise error

    workspaces(monkeypatch, fail)
    assert main(TO_WANDB) == 2
    told = capsys.readouterr().err
    assert reason in told
    assert told.count("\n") == 1


# --- what a shell sees ---


def test_a_reader_that_has_seen_enough_is_neither_a_verdict_nor_a_traceback(
    tmp_path: Path,
) -> None:
    run = copy("high-learning-rate", tmp_path)
    with subprocess.Popen(
        [sys.executable, "-m", "lightning_diag", "judge", str(run), "--format", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PYTHONPATH": str(HOME)},
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        told = process.stderr.read()
    assert process.returncode == 141
    assert told == ""


def completed(shell: str, line: str, folder: Path) -> list[str]:
    """Return what a shell proposes for a line."""
    script = folder / f"completion.{shell}"
    out = subprocess.run(
        [sys.executable, "-m", "lightning_diag", "completion", shell],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(HOME)},
    )
    script.write_text(out.stdout, encoding="utf-8")
    if shell == "fish":
        code = f"source {script}; complete -C'{line}'"
    else:
        code = (
            f"source {script}; IFS=' ' read -r -a COMP_WORDS <<< '{line}';"
            f"case '{line}' in *' ') COMP_WORDS+=('') ;; esac;"
            "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _lightning_diag;"
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
    told = subprocess.run(
        [shell, "-c", code], capture_output=True, text=True, check=True, cwd=folder, timeout=60
    )
    return [word.partition("\t")[0] for word in told.stdout.splitlines() if word]


@pytest.mark.parametrize("shell", ["bash", "fish"])
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lightning-diag ju", ["judge"]),
        ("lightning-diag explain dead", ["dead-embedding", "dead-relu"]),
        ("lightning-diag judge run --fail-on su", ["suspect", "suspicious-labels"]),
        ("lightning-diag judge run --format ma", ["markdown"]),
        ("lightning-diag judge run --set dead-relu.pat", ["dead-relu.patience="]),
        ("lightning-diag judge ru", ["runs/"]),
        ("lightning-diag compare runs ru", ["runs/"]),
        ("lightning-diag completion z", ["zsh"]),
        ("lightning-diag watch run --int", ["--interval"]),
    ],
)
def test_a_shell_completes_commands_options_codes_and_paths(
    tmp_path: Path, shell: str, line: str, words: list[str]
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "runs").mkdir()
    found = [word + "/" if word == "runs" else word for word in completed(shell, line, tmp_path)]
    assert sorted(found) == words


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_the_script_for_zsh_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    script = tmp_path / "_lightning-diag"
    script.write_text(capsys.readouterr().out, encoding="utf-8")
    subprocess.run(["zsh", "-n", str(script)], check=True, timeout=60)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_name_every_command_and_option(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for name, (_, words) in commands().items():
        assert name in text
        for word in words:
            for flag in word.flags:
                assert (flag if shell != "fish" else flag.lstrip("-")) in text
