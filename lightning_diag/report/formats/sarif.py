"""SARIF 2.1.0, which code hosts and editors read."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from lightning_diag import __version__
from lightning_diag.finding import Finding
from lightning_diag.history.text import plain
from lightning_diag.report import words
from lightning_diag.report.formats.subject import Judged

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {"bad": "error", "suspect": "warning", "note": "note"}
_MOST = 100
"""Places of a finding that are written (our choice): code hosts show a few."""


def sarif(judged: Judged) -> str:
    """Return what was found as SARIF 2.1.0.

    Results lie in the history file, whose layers and calls are their logical places. What has
    passed is a note. A finding that another explains names it in its properties.
    """
    shown = judged.verdict.numbered()
    index = {finding.code: i for i, finding in enumerate(shown)}
    content = {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "lightning_diag",
                        "version": __version__,
                        "rules": [_rule(judged, finding) for finding in shown],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "invocations": [{"executionSuccessful": True}],
                "artifacts": [{"location": {"uri": _uri(judged.path)}}],
                "results": [_result(judged, finding, index[finding.code]) for finding in shown],
                "properties": {
                    "verdict": words.plain(judged.verdict.sentence),
                    "notJudged": dict(judged.unjudged),
                    "muted": dict(judged.muted),
                },
            }
        ],
    }
    return json.dumps(plain(content), indent=2, allow_nan=False) + "\n"


def _uri(path: str) -> str:
    """Return a path as a URI: from here, or with its scheme where it is absolute."""
    if path.startswith("/"):
        return "file://" + quote(path)
    if path[1:3] == ":/":
        return "file:///" + quote(path, safe="/:")
    return quote(path)


def _rule(judged: Judged, finding: Finding) -> dict[str, Any]:
    rule: dict[str, Any] = {"id": finding.code, "name": _pascal(finding.code)}
    rule["defaultConfiguration"] = {"level": LEVELS[finding.severity]}
    page = judged.manuals.get(finding.code)
    if page is None:
        return rule
    sections = [f"{name}\n\n{text}" for name, text in page.sections.items()]
    return rule | {
        "shortDescription": {"text": page.summary},
        "fullDescription": {"text": page.sections.get("What it sees") or page.summary},
        "help": {
            "text": "\n\n".join(sections),
            "markdown": "\n\n".join(f"## {section}" for section in sections),
        },
    }


def _pascal(code: str) -> str:
    return "".join(part.capitalize() for part in code.split("-"))


def _result(judged: Judged, finding: Finding, index: int) -> dict[str, Any]:
    text = words.plain(f"{finding.message} {finding.remedy}".strip())
    places = [{"fullyQualifiedName": words.plain(place)} for place in finding.places[:_MOST]]
    location: dict[str, Any] = {
        "physicalLocation": {
            "artifactLocation": {"uri": _uri(judged.path), "index": 0},
            "region": {"startLine": 1},
        }
    }
    if places:
        location["logicalLocations"] = places
    return {
        "ruleId": finding.code,
        "ruleIndex": index,
        "level": "note" if finding.until is not None else LEVELS[finding.severity],
        "message": {"text": text},
        "locations": [location],
        # One result of each code in a file, so that the next upload updates it.
        "partialFingerprints": {"code/v1": finding.code},
        "properties": {
            "severity": finding.severity,
            "steps": list(finding.steps),
            "passed": finding.until is not None,
            "causedBy": finding.caused_by,
            "evidence": vars(finding.evidence),
        },
    }
