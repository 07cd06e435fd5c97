"""What a page draws: pure functions from a history and its findings to plain JSON values."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from lightning_diag.finding import Finding
from lightning_diag.history import History
from lightning_diag.report.ending import ending
from lightning_diag.report.payload import pictures
from lightning_diag.report.payload.axis import axis_of
from lightning_diag.report.payload.facts import environment, told
from lightning_diag.report.payload.histograms import histogram_rows
from lightning_diag.report.payload.layers import Tree
from lightning_diag.report.payload.left_out import omissions
from lightning_diag.report.payload.loss import gap, loss_curves
from lightning_diag.report.payload.maps import heat_maps
from lightning_diag.report.payload.series import curves
from lightning_diag.report.payload.text import as_text
from lightning_diag.report.verdict import Verdict

__all__ = ["State", "as_text", "payload"]

State: TypeAlias = Literal["running", "ended", "unknown"]
"""Whether the run goes on while the page is written; a run that was killed leaves it unknown."""

VERSION = 1
"""Of the payload's form."""
_MOST_NAMED = 100
"""Places of a finding that are named in the payload."""


def payload(history: History, verdict: Verdict, *, state: State = "unknown") -> dict[str, Any]:
    """Return everything that the charts of a page show.

    Args:
        history: The run.
        verdict: What is said of it.
        state: Whether the run goes on; if unknown, the history may know.
    """
    findings = verdict.numbered()
    wanted = list(dict.fromkeys(place for found in findings for place in found.places))
    tree = Tree(history, wanted)
    ended = str(history.meta.get("ended") or "")
    content = {
        "version": VERSION,
        "title": str((history.meta.get("trainer") or {}).get("module") or "Training run"),
        "tone": verdict.tone,
        "sentence": verdict.sentence,
        "state": "ended" if ended and state == "unknown" else state,
        "ended": ended,
        "ending": ending(history, running=state == "running"),
        "axis": axis_of(history),
        "findings": [_finding(i, found, tree) for i, found in enumerate(findings, start=1)],
        "loss": loss_curves(history),
        "layers": tree.rows(),
        "maps": heat_maps(history, tree, wanted),
        "histograms": histogram_rows(history, tree, wanted),
        "series": curves(history),
        "gap": gap(history),
        "filters": pictures.filters(history),
        "examples": pictures.examples(history),
        "unseen": pictures.unseen(history),
        "facts": [list(pair) for pair in told(history)],
        "environment": environment(history),
    }
    return {**content, "thinned": list(omissions(history, content, tree))}


def _finding(number: int, finding: Finding, tree: Tree) -> dict[str, Any]:
    places = finding.places[:_MOST_NAMED]
    positions = (tree.layer_of(place) for place in places)
    return {
        "number": number,
        "code": finding.code,
        "severity": finding.severity,
        "steps": list(finding.steps),
        "passed": finding.until is not None,
        "places": list(places),
        "layers": list(dict.fromkeys(i for i in positions if i >= 0)),
        "message": finding.message,
    }
