"""What `judge` writes for programs is what they read, whatever the names in a model are."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from cli_runs import copy, store
from report_runs import HOSTILE, RUNS, make_finding, make_run

from lightning_diag.cli import main
from lightning_diag.finding import Finding
from lightning_diag.report.formats import WRITERS, Judged, brief, junit, plain_json, sarif
from lightning_diag.rules import DEFAULT_RULES

EVERY_RUN = pytest.mark.parametrize("run", RUNS)


def judged(run: str, *failing: str, path: str = "logs/history.jsonl") -> Judged:
    history, findings = RUNS[run]()
    return Judged(path, history, findings, failing)


def required(value: Any, *names: str) -> list[Any]:
    """Check that an object of SARIF has what the schema requires of it; return these members."""
    assert set(names) <= value.keys()
    return [value[name] for name in names]


# --- SARIF: what its schema of version 2.1.0 requires, and what code hosts need besides ---


@EVERY_RUN
def test_sarif_has_what_its_schema_requires(run: str) -> None:
    log = json.loads(sarif(judged(run)))
    version, (only,) = required(log, "version", "runs")
    assert version == "2.1.0"
    (tool,) = required(only, "tool")
    (driver,) = required(tool, "driver")
    (name,) = required(driver, "name")
    assert name == "lightning_diag"
    for rule in driver["rules"]:
        required(rule, "id")
        assert all("text" in rule[part] for part in ("shortDescription", "help") if part in rule)
    for invocation in only["invocations"]:
        assert required(invocation, "executionSuccessful") == [True]
    for result in only["results"]:
        (message,) = required(result, "message")
        assert message["text"]
        assert result["level"] in {"error", "warning", "note", "none"}
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        (location,) = result["locations"]
        artifact = location["physicalLocation"]["artifactLocation"]
        assert only["artifacts"][artifact["index"]]["location"]["uri"] == artifact["uri"]
        assert location["physicalLocation"]["region"]["startLine"] >= 1
    assert len(only["results"]) == len(RUNS[run]()[1])


def test_sarif_tells_severities_as_levels_and_passed_findings_as_notes() -> None:
    findings = [
        make_finding("dead-relu", severity="bad"),
        make_finding("loss-spike", severity="suspect"),
        make_finding("overfitting", severity="note"),
        make_finding("non-finite", severity="bad", until=200),
    ]
    log = json.loads(sarif(Judged("h.jsonl", make_run(), findings)))
    levels = {result["ruleId"]: result["level"] for result in log["runs"][0]["results"]}
    assert levels == {
        "dead-relu": "error",
        "loss-spike": "warning",
        "overfitting": "note",
        "non-finite": "note",
    }


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("logs/history.jsonl", "logs/history.jsonl"),
        ("my logs/ü.jsonl", "my%20logs/%C3%BC.jsonl"),
        ("/data/a b.jsonl", "file:///data/a%20b.jsonl"),
        ("C:/runs/a b.jsonl", "file:///C:/runs/a%20b.jsonl"),
    ],
)
def test_paths_in_sarif_are_uris(path: str, uri: str) -> None:
    log = json.loads(sarif(judged("killed", path=path)))
    assert log["runs"][0]["artifacts"][0]["location"]["uri"] == uri


# --- JUnit ---


@EVERY_RUN
def test_junit_counts_its_cases_as_they_are(run: str) -> None:
    suites = ET.fromstring(junit(judged(run, "dead-relu")))
    (suite,) = suites
    assert (suites.tag, suite.tag) == ("testsuites", "testsuite")
    cases = suite.findall("testcase")
    for counted in (suites, suite):
        assert int(counted.attrib["tests"]) == len(cases)
        assert int(counted.attrib["failures"]) == len(suite.findall("testcase/failure"))
        assert int(counted.attrib["skipped"]) == len(suite.findall("testcase/skipped"))
        assert counted.attrib["errors"] == "0"
    assert {case.attrib["classname"] for case in cases} == {"lightning_diag"}
    assert {case.attrib["name"] for case in cases} >= {rule.code for rule in DEFAULT_RULES}


def test_in_junit_a_rule_fails_passes_speaks_or_is_skipped() -> None:
    subject = judged("killed", "learning-rate-too-high")
    subject.history.update_meta(
        {
            "not_judged": {"saturated-activation": "no function was seen"},
            "muted": {"slow-dataloader": "not seen", "loss-spike:net*": "2 places left out"},
        }
    )
    root = ET.fromstring(junit(subject))
    cases = {case.attrib["name"]: case for case in root.iter("testcase")}
    (failure,) = cases["learning-rate-too-high"]
    assert failure.attrib["type"] == "bad"
    assert failure.attrib["message"].startswith("One step changes the weights by 30 %")
    assert "Do: Divide the learning rate by 30." in (failure.text or "")
    assert cases["dead-relu"][0].tag == "system-out"
    assert list(cases["non-finite"]) == []
    skipped = cases["saturated-activation"][0]
    assert (skipped.tag, skipped.attrib["message"]) == ("skipped", "no function was seen")
    assert cases["slow-dataloader"][0].attrib["message"] == "muted: not seen"
    assert list(cases["loss-spike"]) == []


@pytest.mark.parametrize(("gate", "failures"), [([], 0), (["--fail-on", "suspect"], 3)])
def test_without_a_gate_bad_findings_fail_and_with_one_those_it_names(
    tmp_path: Path, gate: list[str], failures: int, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy("high-learning-rate", tmp_path)
    code = main(["judge", str(run), "--format", "junit", *gate])
    root = ET.fromstring(capsys.readouterr().out)
    assert int(root.attrib["failures"]) == failures
    assert code == (1 if failures else 0)


# --- JSON ---


def test_json_holds_each_finding_as_it_can_be_read_back() -> None:
    subject = judged("killed", "dead-relu")
    content = json.loads(plain_json(subject))
    assert [Finding.from_dict(f) for f in content["findings"]] == subject.verdict.numbered()
    assert content["verdict"]["tone"] == "bad"
    assert content["failing"] == ["dead-relu"]
    assert content["watched"] == {"records": 73, "first": 0, "last": 400}


# --- Markdown ---


def test_markdown_tells_verdict_cause_evidence_remedy_numbers_and_what_is_missing() -> None:
    subject = judged("killed")
    subject.history.update_meta({"not_judged": {"underfitting": "no metric was logged"}})
    text = brief(subject)
    assert text.startswith("# Training run: bad\n\nTraining is broken: learning-rate-too-high")
    order = [
        "### learning-rate-too-high (bad, steps 0 to 400)",
        "- Evidence: measured 0.31, threshold 0.03, window 40, seen on 40 watched steps",
        "- Remedy: Divide the learning rate by 30.",
        "#### dead-relu (bad, steps 60 to 400)",
        "## Key numbers",
        "- Training loss: ",
        "- Update ratio: median",
        "- Not observed: saturation (the model calls no saturating function)",
        "## Rules that could not judge",
        "- underfitting: no metric was logged",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_markdown_never_has_more_than_2000_words() -> None:
    history = make_run(40, prefix="a very long name of many words ")
    history.update_meta({"not_judged": {f"rule-{i}": "because " * 30 for i in range(60)}})
    findings = [
        make_finding(f"rule-of-mine-{i}", message="word " * 300, remedy="word " * 200)
        for i in range(40)
    ]
    text = brief(Judged("h.jsonl", history, findings))
    assert 1500 < len(text.split()) <= 2000
    assert "more parts left out.)" in text
    assert "## Key numbers" in text
    assert "## What was observed" in text


def test_each_run_fits_in_markdown_as_a_whole() -> None:
    for run in RUNS:
        text = brief(judged(run))
        assert len(text.split()) <= 2000
        assert "left out" not in text


# --- all of them ---


@pytest.mark.parametrize("name", WRITERS)
def test_no_name_gets_out_of_its_place(name: str) -> None:
    text = WRITERS[name](judged("hostile"))
    assert "\x1b" not in text
    if name == "junit":
        (case,) = [
            c for c in ET.fromstring(text).iter("testcase") if c.attrib["name"] == "dead-relu"
        ]
        assert "</script>" in "".join(case.itertext())
    elif name == "markdown":
        assert "<img" not in text
        assert "<script" not in text
    else:
        assert json.loads(text)


def test_characters_that_xml_cannot_hold_are_replaced() -> None:
    finding = make_finding(message="bad \ufffe\uffff\x00 name", places=("\ud800",))
    root = ET.fromstring(junit(Judged("h.jsonl", make_run(), [finding], ("dead-relu",))))
    (failure,) = root.iter("failure")
    assert failure.attrib["message"] == "bad \ufffd\ufffd\\x00 name"


@pytest.mark.parametrize("name", ["json", "sarif", "junit", "markdown"])
def test_formats_are_utf_8_whatever_the_terminal_is(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(paper, encoding="ascii"))
    assert main(["judge", str(store("healthy", tmp_path / "Läufe")), "--format", name]) == 0
    assert "L" in paper.getvalue().decode("utf-8")


def test_the_hostile_name_is_hostile() -> None:
    assert "\x1b" in HOSTILE
