"""`Pace`: after which records a run is judged, when many steps are watched."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

from lightning_diag.record import Record

_DENSE = 100
"""Steps after each of which a record is judged (our choice)."""
_MORE = 50
"""From there on one step in so many more earns a judgement (our choice: a finding is then at most
4 % late, and 10,000 steps cost 322 judgements)."""


def _marks() -> list[int]:
    """Return the steps that a judgement is due at, up to more than any run has."""
    marks = [_DENSE]
    while marks[-1] < 1 << 50:
        marks.append(marks[-1] + math.ceil(marks[-1] / _MORE))
    return marks


# In whole numbers, so that every rank and every machine has the same.
_MARKS = _marks()


class Pace:
    """Says whether a record is to be judged.

    Each one in the first 100 steps, then the first at or after each mark, marks being 2 to 3 %
    apart; and the one in which a loss, a gradient or an activation is not finite for the first
    time. What is due depends on the steps alone and on nothing that was judged in between, so that
    a run that goes on from a checkpoint is judged at the same records.

    Example:
        >>> pace = Pace()
        >>> [step for step in range(0, 1000, 3) if pace.due(Record(step, {}))][-4:]
        [936, 954, 975, 996]
    """

    def __init__(self) -> None:
        self._seen = -1
        self._is_finite = True

    def due(self, record: Record) -> bool:
        """Take note of a record; return whether it is to be judged."""
        if record.step < self._seen:
            self._seen = -1
        is_due = _mark(record.step) > _mark(self._seen)
        was_finite, self._is_finite = self._is_finite, _is_finite(record)
        self._seen = record.step
        return is_due or (was_finite and not self._is_finite)

    def state_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"seen": self._seen, "is_finite": self._is_finite}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._seen, self._is_finite = int(state["seen"]), bool(state["is_finite"])


def _mark(step: int) -> int:
    """Return how many judgements are due up to a step."""
    return step if step < _DENSE else _DENSE + bisect_right(_MARKS, step)


def _is_finite(record: Record) -> bool:
    values = record.values
    return (
        math.isfinite(sum(record.dense.get("loss/train", ())))
        and all(map(math.isfinite, values.get("gradient/total_norm", {}).values()))
        and not any(values.get("activation/nonfinite_count", {}).values())
    )
