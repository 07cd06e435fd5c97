"""JUnit's XML, which CI servers read: a test case for each rule."""

from __future__ import annotations

import html
import re

from lightning_diag.finding import Finding
from lightning_diag.report import words
from lightning_diag.report.formats.subject import Judged

_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(judged: Judged) -> str:
    """Return what was found as JUnit's XML.

    A finding that counts fails its test case; any other is the case's output. A rule that could
    not judge, or is muted, is skipped.
    """
    found = {finding.code: finding for finding in judged.verdict.numbered()}
    skipped = {code: why for code, why in judged.unjudged.items() if code not in found}
    skipped |= {w: f"muted: {why}" for w, why in judged.muted.items() if ":" not in w}
    codes = sorted({*judged.codes, *skipped})
    failures = sum(code in judged.failing for code in found)
    left_out = sum(code in skipped and code not in found for code in codes)
    counts = f'tests="{len(codes)}" failures="{failures}" errors="0" skipped="{left_out}"'
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuites name="lightning_diag" {counts} time="0">',
        f'  <testsuite name={_attribute(judged.path)} {counts} time="0">',
    ]
    for code in codes:
        finding = found.get(code)
        inner = (
            _finding(finding, fails=code in judged.failing)
            if finding
            else f"<skipped message={_attribute(skipped[code])}/>"
            if code in skipped
            else ""
        )
        case = f'    <testcase classname="lightning_diag" name={_attribute(code)} time="0"'
        lines.append(f"{case}>{inner}</testcase>" if inner else f"{case}/>")
    sentence = _text(judged.verdict.sentence)
    lines += [f"    <system-out>{sentence}</system-out>", "  </testsuite>", "</testsuites>", ""]
    return "\n".join(lines)


def _finding(finding: Finding, *, fails: bool) -> str:
    rows = [
        finding.message,
        f"Where: {words.where(finding, most=20)}",
        f"When: {words.period(finding)}",
        f"Evidence: {words.evidence(finding.evidence)}",
        *(f"{label}: {text}" for label, text in words.origin(finding)),
        f"Do: {finding.remedy}",
    ]
    text = _text("\n".join(rows))
    if not fails:
        return f"<system-out>{_text(finding.severity)}\n{text}</system-out>"
    head = f"type={_attribute(finding.severity)} message={_attribute(finding.message)}"
    return f"<failure {head}>{text}</failure>"


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", words.plain(text))


def _text(text: str) -> str:
    return html.escape(_clean(text), quote=False)


def _attribute(text: str) -> str:
    # As they are, a reader of XML would take them for spaces.
    return f'"{html.escape(_clean(text))}"'.replace("\n", "&#10;").replace("\t", "&#9;")
