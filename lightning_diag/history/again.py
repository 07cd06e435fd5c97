"""A run again: its history as it was after each record, for those who judge it anew."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence

from lightning_diag.history.curve import Stretch
from lightning_diag.history.layout import Row, Shape, compact_index
from lightning_diag.history.memory import Columns, Memory
from lightning_diag.record import Record


def again(whole: Memory, growing: Memory) -> Iterator[Record | None]:
    """Fill a memory with what another knows, and stop after each record and each note.

    Rows are shared rather than copied: that is what makes a long run with many layers quick to
    judge. Places come in the order in which the records bring them, as when they were measured.

    Args:
        whole: All of the run; it is left as it is.
        growing: An empty memory.

    Yields:
        The record that was added, None for a note.
    """
    movers: dict[Shape, _Mover] = {}
    notes = _notes(whole)
    pending = next(notes, None)
    previous: int | None = None
    for row in whole.rows:
        # A note belongs to the step taken last, so it comes behind that step's record.
        while pending is not None and pending[0] < row.step:
            growing.note(*pending)
            yield None
            pending = next(notes, None)
        if row.shape not in movers:
            movers[row.shape] = _Mover(whole, growing, row.shape)
        dense = whole.unbroken(previous, row.step)
        moved = movers[row.shape](row)
        growing.add(moved, {m: Stretch.ending(row.step, v) for m, v in dense.items()})
        yield Record(
            step=row.step,
            values=Columns(growing, moved),
            dense=dense,
            epoch=row.epoch,
            seconds=row.seconds,
            optimizer_steps=row.optimizer_steps,
        )
        previous = row.step
    while pending is not None:
        growing.note(*pending)
        yield None
        pending = next(notes, None)


class _Mover:
    """Gives rows of one shape the places that another layout knows."""

    def __init__(self, old: Memory, new: Memory, shape: Shape) -> None:
        self._old, self._new = old, new
        indices: dict[str, Sequence[int]] = {}
        order: list[int] = []
        for metric, index in shape.indices.items():
            places = old.layout.places(metric)
            numbers = self._numbers(metric, [places[i] for i in index])
            start = shape.starts[metric]
            order += [start + i for i in sorted(range(len(numbers)), key=numbers.__getitem__)]
            indices[metric] = compact_index(sorted(numbers))
        self._order = None if order == list(range(len(order))) else order
        self._shape = new.layout.shape(indices)

    def __call__(self, row: Row) -> Row:
        numbers = row.numbers
        if self._order is not None:
            numbers = array("d", (numbers[i] for i in self._order))
        lists = {}
        for metric, columns in row.lists.items():
            places = self._old.layout.places(metric)
            numbered = self._numbers(metric, [places[i] for i in columns])
            lists[metric] = dict(sorted(zip(numbered, columns.values(), strict=True)))
        return row._replace(shape=self._shape, numbers=numbers, lists=lists)

    def _numbers(self, metric: str, names: Sequence[str]) -> list[int]:
        """Return the numbers that places have in the new layout, entering those it lacks."""
        self._new.layout.add(metric, names)
        known = self._new.layout.numbers(metric)
        return [known[name] for name in names]


def _notes(memory: Memory) -> Iterator[tuple[int, Mapping[str, Mapping[str, float]]]]:
    """Yield what was noted between records and is in none of them, by ascending step."""
    recorded = _recorded(memory)
    for step, values in memory.notes():
        kept = {
            metric: {p: value for p, value in places.items() if (metric, p) not in recorded}
            for metric, places in values.items()
        }
        if any(kept.values()):
            yield step, {metric: places for metric, places in kept.items() if places}


def _recorded(memory: Memory) -> set[tuple[str, str]]:
    """Return metric and place of what has been noted and is in a record, too."""
    shapes = {row.shape for row in memory.rows}
    return {
        (metric, place)
        for metric, places in memory.noted.items()
        for numbers in (memory.layout.numbers(metric),)
        for place in places
        if (place == "" and metric in memory.curves)
        or any(shape.position(metric, numbers[place]) is not None for shape in shapes)
    }
