"""Takes down what observers measured between records: at the end of a validation or an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_diag.history import History
from lightning_diag.measure.tally import Tally
from lightning_diag.probe.guard import Guard
from lightning_diag.probe.observer import Note, Observer, Stage


class NoteTaker:
    """Joins the notes of all ranks, and enters them in the history.

    Args:
        observers: All of them, the same on every rank.
        guard: Switches off those that fail.
        tally: Knows the ranks.
    """

    def __init__(self, observers: Sequence[Observer], guard: Guard, tally: Tally) -> None:
        self._observers = [o for o in observers if type(o).note is not Observer.note]
        self._guard = guard
        self._tally = tally

    def take(self, stage: Stage, step: int, history: History) -> bool:
        """Return whether anything was noted. Every rank must call this.

        Args:
            stage: What has ended.
            step: The optimizer step that was taken last.
            history: Where numbers and metadata go.
        """
        if not self._observers:
            return False
        of_ranks = self._tally.all_of([self._own(observer, stage) for observer in self._observers])
        noted = Note()
        for i, observer in enumerate(self._observers):
            if any(is_off for is_off, _ in (notes[i] for notes in of_ranks)):
                self._guard.silence(observer)  # what fails on one rank is silent on all
                continue
            given = [note for _, note in (notes[i] for notes in of_ranks) if note is not None]
            note = self._joined(observer, stage, given)
            for metric, places in note.values.items():
                noted.values.setdefault(metric, {}).update(places)
            noted.meta.update(note.meta)
        changed = {k: v for k, v in noted.meta.items() if history.meta.get(k) != v}
        if changed:
            history.update_meta(changed)
        history.note(step, noted.values)
        return any(noted.values.values())

    def _own(self, observer: Observer, stage: Stage) -> tuple[bool, Any]:
        """Return whether this rank's observer is off, and what it has to say if not."""
        note = self._guard.run(observer, observer.note, stage)
        return self._guard.is_off(observer), note

    def _joined(self, observer: Observer, stage: Stage, given: Sequence[Any]) -> Note:
        if not given:
            return Note()
        return self._guard.run(observer, observer.noted, stage, given) or Note()
