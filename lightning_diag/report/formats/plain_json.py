"""JSON: all that is known, for programs."""

from __future__ import annotations

import json

from lightning_diag.history.text import plain
from lightning_diag.report.formats.subject import Judged

VERSION = 1
"""Of these names and their meaning; raised when a reader would misread them."""


def plain_json(judged: Judged) -> str:
    """Return what was found, as JSON: numbers that are not finite are words, as in a history."""
    steps = judged.history.steps
    content = {
        "version": VERSION,
        "run": judged.path,
        "watched": {"records": len(steps), "first": steps[0], "last": steps[-1]} if steps else None,
        "verdict": {"tone": judged.verdict.tone, "sentence": judged.verdict.sentence},
        "failing": list(judged.failing),
        "findings": [finding.to_dict() for finding in judged.verdict.numbered()],
        "not_judged": dict(judged.unjudged),
        "muted": dict(judged.muted),
    }
    return json.dumps(plain(content), indent=2, allow_nan=False) + "\n"
