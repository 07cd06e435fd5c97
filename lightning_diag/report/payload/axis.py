"""The axis that all curves share: step, epoch and time of the records."""

from __future__ import annotations

from typing import Any

from lightning_diag.history import History
from lightning_diag.report.payload.numbers import spread, tidy

MOST = 2_000
"""Records shown on the axis: about one a pixel of a wide page, and what lies between is
interpolated."""


def axis_of(history: History) -> dict[str, list[Any]]:
    """Return step, epoch and seconds of the records, evenly thinned."""
    marks = list(history.marks())
    kept = [marks[i] for i in spread(len(marks), MOST)]
    return {
        "step": [step for step, _, _ in kept],
        "epoch": [epoch for _, epoch, _ in kept],
        "seconds": [tidy(seconds) for _, _, seconds in kept],
    }
