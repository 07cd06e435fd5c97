"""`lightning-diag check`: exit codes and formats are those of `judge`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from lightning_diag.cli import main

MODULE = """
from checks.sick import SICK
from checks.subjects import HEALTHY, Plain, mlp, table

def healthy():
    return HEALTHY["mlp"]()

def sick():
    return SICK["parameter-not-in-optimizer"]()

def alone():
    return Plain(mlp())

def number():
    return 3

def broken():
    raise KeyError("no data")

def leaves():
    raise SystemExit(3)

def sized(width):
    return Plain(mlp(width))

module = Plain(mlp())
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train_here.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("home", ["train_here", "train_here.py"])
@pytest.mark.parametrize(
    ("name", "words", "code"),
    [
        ("healthy", ["--fail-on", "note"], 0),
        ("sick", [], 0),
        ("sick", ["--fail-on", "suspect"], 1),
        ("sick", ["--fail-on", "parameter-not-in-optimizer"], 1),
        ("sick", ["--fail-on", "initial-loss"], 0),
        ("sick", ["--only", "initial-loss", "--fail-on", "note"], 0),
    ],
)
def test_it_ends_with_what_fail_on_names(
    home: str, name: str, words: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", f"{home}:{name}", *words]) == code
    told = capsys.readouterr()
    assert ("parameter-not-in-optimizer  before training" in told.out) == (
        name == "sick" and "--only" not in words
    )
    assert ("--fail-on names" in told.err) == (code == 1)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["train_here"], "MODULE:FACTORY must name a module and a function in it"),
        (["nowhere:make"], "'nowhere' cannot be imported: ModuleNotFoundError"),
        (["nowhere.py:make"], "'nowhere.py' cannot be imported: FileNotFoundError"),
        (["train_here:nothing"], "'train_here' has no function 'nothing'."),
        (["train_here:broken"], "'train_here:broken' failed: KeyError: 'no data'"),
        (["train_here:number"], "'train_here:number' must return a LightningModule, or a pair"),
        (["train_here:leaves"], "'train_here:leaves' failed: SystemExit: 3"),
        (["train_here:sized"], "'train_here:sized' must take no arguments: missing a required"),
        (["train_here:module"], "'module' in 'train_here' is a module: name a function that"),
        (["train_here:sick", "--only", "inital-loss"], "`level` must name checks"),
        (["train_here:sick", "--fail-on", "inital-loss"], "did you mean 'initial-loss'?"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line


def written(target: str, kind: str, capsys: pytest.CaptureFixture[str]) -> Any:
    assert main(["check", target, "--format", kind, "--level", "full"]) == 0
    return capsys.readouterr().out


def test_formats_have_what_was_found_and_what_could_not_be_judged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = json.loads(written("train_here:sick", "json", capsys))
    assert [finding["code"] for finding in content["findings"]] == content["failing"]
    assert content["verdict"]["sentence"] == "Training is broken: parameter-not-in-optimizer."
    content = json.loads(written("train_here:alone", "json", capsys))
    assert content["not_judged"]["initial-loss"] == "there are no training data"
    assert content["verdict"]["tone"] == "healthy"

    suites = ET.fromstring(written("train_here:sick", "junit", capsys))  # our own
    names = {case.get("name") for case in suites.iter("testcase")}
    assert {"initial-loss", "bias-before-norm", "parameter-not-in-optimizer"} <= names
    assert "dead-relu" not in names
    assert suites.get("failures") == "1"

    text = written("train_here:alone", "markdown", capsys)
    assert text.startswith("# Before training: healthy")
    assert "## Checks that could not judge" in text
    assert "Key numbers" not in text
    assert text == text.strip() + "\n"

    (result,) = json.loads(written("train_here:sick", "sarif", capsys))["runs"][0]["results"]
    assert (result["ruleId"], result["level"]) == ("parameter-not-in-optimizer", "error")


def test_explain_tells_of_checks_that_are_no_rules(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "uncalled-module"]) == 0
    assert capsys.readouterr().out.startswith("# uncalled-module\n\nDropout or a norm")
