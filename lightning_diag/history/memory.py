"""`Memory`: what a history knows, in compact arrays; knows nothing of files."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from lightning_diag.finding import Finding
from lightning_diag.history.curve import POINT_COST, Curve, Series, Stretch
from lightning_diag.history.layout import Layout, Row, Shape
from lightning_diag.history.shelf import Shelf
from lightning_diag.history.thin import FIRST, thin
from lightning_diag.record import Record

DENSE_PART = 4
"""Curves may take one part in so many of what stays. Our choice: at the default limits that leaves
250,000 steps, more than any screen shows, and the records get the rest."""


NOTE_PART = 8
"""The same for what was noted between records. Our choice: 60,000 numbers at the default limits, or
6,000 validations of ten metrics."""


class Columns(Mapping[str, Mapping[str, float]]):
    """The numbers of a row by metric and place, put together when they are asked for.

    Args:
        memory: Whose places they are.
        row: Whose numbers they are.
    """

    def __init__(self, memory: Memory, row: Row) -> None:
        self._memory, self._row = memory, row
        self._made: dict[str, dict[str, float]] = {}

    def __getitem__(self, metric: str) -> dict[str, float]:
        if metric not in self._made:
            self._made[metric] = self._memory.column(self._row, metric)
        return self._made[metric]

    def __contains__(self, metric: object) -> bool:
        return metric in self._row.shape.indices

    def __iter__(self) -> Iterator[str]:
        return iter(self._row.shape.indices)

    def __len__(self) -> int:
        return len(self._row.shape.indices)

    def __repr__(self) -> str:
        return repr(dict(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


class Memory:
    """Rows, dense curves, notes, pictures, layout, metadata and findings of one run."""

    def __init__(self) -> None:
        self.layout = Layout()
        self.rows: list[Row] = []
        self.curves: dict[str, Curve] = {}
        self.noted: dict[str, dict[str, Curve]] = {}
        self.meta: dict[str, Any] = {}
        self.findings: dict[str, Finding] = {}
        self.shelf = Shelf()
        self._row_cost = 0
        self._newest: dict[str, Row] = {}

    @property
    def cost(self) -> int:
        """Memory of rows, curves and notes, in numbers of 8 bytes."""
        notes = sum(len(curve.steps) for curve in self._note_curves)
        return self._row_cost + POINT_COST * (self._points + notes)

    @property
    def _points(self) -> int:
        return sum(len(curve.steps) for curve in self.curves.values())

    @property
    def _note_curves(self) -> list[Curve]:
        return [curve for places in self.noted.values() for curve in places.values()]

    def row(self, record: Record) -> Row:
        """Return a record's numbers as a row, and enter its places in the layout."""
        indices: dict[str, Sequence[int]] = {}
        numbers: array[float] = array("d")
        for metric, values in record.values.items():
            if values:
                indices[metric], ordered = self.layout.arrange(metric, values)
                numbers.extend(ordered)
        lists = {}
        for metric, places in record.lists.items():
            if places:
                index, columns = self.layout.arrange(metric, places)
                lists[metric] = {
                    i: array("d", column) for i, column in zip(index, columns, strict=True)
                }
        return Row(
            step=int(record.step),
            epoch=int(record.epoch),
            seconds=float(record.seconds),
            optimizer_steps=tuple(map(int, record.optimizer_steps)),
            shape=self.layout.shape(indices),
            numbers=numbers,
            lists=lists,
        )

    def add(self, row: Row, dense: Mapping[str, Stretch]) -> None:
        """Add a row that is newer than all, and the dense values that came with it."""
        self.rows.append(row)
        self._row_cost += row.cost
        self._newest.update(dict.fromkeys(row.shape.indices, row))
        self.add_dense(dense)

    def add_dense(self, dense: Mapping[str, Stretch]) -> None:
        """Add dense values; the newest value of a step counts."""
        for metric, stretch in dense.items():
            self.layout.add(metric, ("",))
            self.curves.setdefault(metric, Curve()).put(stretch)

    def note(self, step: int, values: Mapping[str, Mapping[str, float]]) -> None:
        """Add numbers that no record carries; the newest value of a step counts."""
        for metric, places in values.items():
            self.layout.add(metric, places)
            curves = self.noted.setdefault(metric, {})
            for place, value in places.items():
                stretch = Stretch(array("q", [step]), array("d", [value]))
                curves.setdefault(place, Curve()).put(stretch)

    def notes(self) -> Iterator[tuple[int, dict[str, dict[str, float]]]]:
        """Yield step and numbers of all that was noted, by ascending step."""
        by_step: dict[int, dict[str, dict[str, float]]] = {}
        for metric, places in self.noted.items():
            for place, curve in places.items():
                for step, value in zip(curve.steps, curve.values, strict=True):
                    by_step.setdefault(step, {}).setdefault(metric, {})[place] = value
        yield from sorted(by_step.items())

    def forget(self, step: int) -> bool:
        """Forget the step and later ones; return whether there was anything to forget."""
        end = bisect_left(self.rows, step, key=lambda row: row.step)
        curves = [*self.curves.values(), *self._note_curves]
        stale = [curve for curve in curves if curve.steps and curve.steps[-1] >= step]
        codes = [code for code, finding in self.findings.items() if finding.steps[0] >= step]
        found = self.shelf.forget(step) or bool(self.rows[end:] or stale or codes)
        self._row_cost -= sum(row.cost for row in self.rows[end:])
        if end < len(self.rows):
            del self.rows[end:]
            self._find_newest()
        for curve in stale:
            curve.cut(step)
        for code in codes:
            del self.findings[code]
        return found

    def drop(self, target: int) -> None:
        """Thin rows, curves and notes to a cost of about `target`."""
        dense = min(POINT_COST * self._points, target // DENSE_PART)
        notes = self._note_curves
        noted = min(POINT_COST * sum(len(c.steps) for c in notes), target // NOTE_PART)
        self.rows = thin(self.rows, target - dense - noted)
        self._find_newest()
        self._row_cost = sum(row.cost for row in self.rows)
        own = {row.step for row in self.rows}
        first = self.rows[:FIRST][-1].step if self.rows else 0
        for curve in self.curves.values():
            curve.thin(max(1, dense // POINT_COST // len(self.curves)), first, own)
        for curve in notes:
            curve.spread(max(1, noted // POINT_COST // len(notes)))

    def _find_newest(self) -> None:
        """Find the newest row of each metric anew, after rows were taken away."""
        self._newest = {}
        for row in self.rows:
            self._newest.update(dict.fromkeys(row.shape.indices, row))

    def series(self, metric: str, place: str) -> Series:
        """See `History.series`."""
        curve = self.noted.get(metric, {}).get(place)
        if curve is None and metric in self.curves:
            curve = self.curves[metric] if place == "" else Curve()
        if curve is not None:
            return Series(curve.steps.tolist(), curve.values.tolist())
        series = Series([], [])
        number = self.layout.number(metric, place)
        positions: dict[Shape, int | None] = {}
        for row in self.rows if number is not None else ():
            position = positions.get(row.shape, -1)
            if position == -1 and number is not None:
                position = positions[row.shape] = row.shape.position(metric, number)
            if position is not None:
                series.steps.append(row.step)
                series.values.append(row.numbers[position])
        return series

    def window(self, metric: str, n: int) -> list[tuple[int, dict[str, float]]]:
        """See `History.window`."""
        curve = self.curves.get(metric)
        if curve is not None:
            points = list(zip(curve.steps[-n:], curve.values[-n:], strict=True)) if n > 0 else []
            return [(step, {"": value}) for step, value in points]
        rows = reversed(self.rows) if metric in self._newest else ()
        holders = (row for row in rows if metric in row.shape.indices)
        found = [(row.step, self.column(row, metric)) for row in islice(holders, max(0, n))]
        if metric in self.noted and n > 0:
            return self._with_notes(found, metric, n)
        return found[::-1]

    def last(self, metric: str) -> dict[str, float]:
        """See `History.last`."""
        newest: dict[str, float] = {}
        if metric in self.curves:
            newest = self.window(metric, 1)[0][1] if self.curves[metric].steps else {}
        else:
            row = self._newest.get(metric)
            newest = {} if row is None else self.column(row, metric)
        for place, curve in self.noted.get(metric, {}).items():
            if curve.values:
                newest[place] = curve.values[-1]
        return newest

    def _with_notes(
        self, found: list[tuple[int, dict[str, float]]], metric: str, n: int
    ) -> list[tuple[int, dict[str, float]]]:
        """Return the newest `n` of the steps found and of those at which something was noted."""
        by_step = dict(found)
        for place, curve in self.noted[metric].items():
            for step, value in zip(curve.steps[-n:], curve.values[-n:], strict=True):
                by_step.setdefault(step, {})[place] = value
        return sorted(by_step.items())[-n:]

    def lists(self, metric: str, place: str, n: int | None = None) -> list[tuple[int, list[float]]]:
        """See `History.lists`."""
        number = self.layout.number(metric, place)
        if number is None:
            return []
        known = (
            (row.step, row.lists[metric][number].tolist())
            for row in reversed(self.rows)
            if number in row.lists.get(metric, ())
        )
        return list(islice(known, n))[::-1]

    def column(self, row: Row, metric: str) -> dict[str, float]:
        """Return the numbers of a metric that a row holds, by place."""
        places: Iterable[str] = self.layout.numbers(metric)
        index = row.shape.indices[metric]
        if not isinstance(index, range):
            places = map(list(places).__getitem__, index)
        # A range begins with the first place, and places that came later have no number here.
        return dict(zip(places, row.column(metric), strict=False))

    def dense(self, after: int | None, upto: int | None) -> dict[str, Stretch]:
        """Return the dense values with ``after < step <= upto``; None leaves a side open."""
        stretches = {m: curve.between(after, upto) for m, curve in self.curves.items()}
        return {metric: stretch for metric, stretch in stretches.items() if stretch.steps}

    def unbroken(self, after: int | None, upto: int) -> dict[str, list[float]]:
        """Return the dense values of neighbouring steps that end at `upto`, and begin behind."""
        dense = {m: _unbroken(s, upto) for m, s in self.dense(after, upto).items()}
        return {metric: values for metric, values in dense.items() if values}

    def record(self, row: Row, previous: int | None) -> Record:
        """Return a row as a record; `previous` is the step of the row before."""
        lists = {}
        for metric, column in row.lists.items():
            places = self.layout.places(metric)
            lists[metric] = {places[i]: values.tolist() for i, values in column.items()}
        return Record(
            step=row.step,
            values=Columns(self, row),
            dense=self.unbroken(previous, row.step),
            lists=lists,
            epoch=row.epoch,
            seconds=row.seconds,
            optimizer_steps=row.optimizer_steps,
        )


def _unbroken(stretch: Stretch, step: int) -> list[float]:
    """Return the values of the longest run of neighbouring steps that ends at `step`."""
    steps, values = stretch
    start = len(steps)
    while start > 0 and steps[start - 1] == step - (len(steps) - start):
        start -= 1
    return values[start:].tolist()
