"""`replay`: judges a stored run again, record by record, as it was judged while it trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lightning_diag.history import History
from lightning_diag.record import Record, Values
from lightning_diag.rules import Rule
from lightning_diag.rules.diagnosis import Diagnosis

Note = tuple[int, dict[str, dict[str, float]]]
"""Step, and numbers by metric and place."""


def replay(history: History, rules: Sequence[Rule], mute: Sequence[str] = ()) -> Diagnosis:
    """Judge a run anew, from its first record to its last.

    Once at the end would not do: when a problem began, and what has passed since, is known only
    to those who look on the way. What thinning took away is missing on the way, and there only.

    Args:
        history: The run; it is left as it is.
        rules: What to judge by.
        mute: What not to speak of, as in `Diagnosis`.

    Returns:
        What was found, as after the run's last record.

    Raises:
        ValueError: If `mute` names no rule.
    """
    diagnosis = Diagnosis(rules, mute)
    diagnosis.warns = False
    growing = History(max_numbers=1 << 62)
    growing.update_meta(history.meta)
    notes = _notes(history)
    pending = next(notes, None)
    for record in history.records():
        # A note belongs to the step taken last, so it comes behind that step's record.
        while pending is not None and pending[0] < record.step:
            _note(diagnosis, growing, *pending)
            pending = next(notes, None)
        growing.append(record)
        if diagnosis.is_due(record):
            diagnosis.update(growing)
    while pending is not None:
        _note(diagnosis, growing, *pending)
        pending = next(notes, None)
    diagnosis.update(history)
    return diagnosis


def _note(diagnosis: Diagnosis, growing: History, step: int, values: Values) -> None:
    growing.note(step, values)
    diagnosis.update(growing)


def _notes(history: History) -> Iterator[Note]:
    """Yield what was noted between records, by ascending step."""
    recorded = {pair for record in history.records() for pair in _pairs(record)}
    found: dict[int, dict[str, dict[str, float]]] = {}
    for metric in history.metrics():
        for place in history.places(metric):
            if (metric, place) in recorded:
                continue
            for step, value in zip(*history.series(metric, place), strict=True):
                found.setdefault(step, {}).setdefault(metric, {})[place] = value
    yield from sorted(found.items())


def _pairs(record: Record) -> Iterator[tuple[str, str]]:
    """Yield metric and place of all that a record holds."""
    for metric, places in (*record.values.items(), *record.lists.items()):
        yield from ((metric, place) for place in places)
    yield from ((metric, "") for metric in record.dense)
