"""`Unmuted`: a history without some of its places, for a rule that is muted there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeVar

from lightning_diag.finding import Finding
from lightning_diag.history import History, Series
from lightning_diag.record import Record

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

T = TypeVar("T")
_BY_PLACE = ("dropout", "parameters", "sites", "losses")
"""Keys of the metadata whose values go by place."""


class Unmuted(History):
    """What a history says of all places but the muted ones; to be read only.

    A rule that never sees a place cannot speak of it, nor count it, nor compare with it.

    Args:
        history: The whole history.
        patterns: Which places are left out.

    Example:
        >>> whole = History()
        >>> whole.append(Record(0, {"gradient/norm": {"net.0.weight": 1.0, "net.1.weight": 2.0}}))
        >>> Unmuted(whole, ["net.1*"]).last("gradient/norm")
        {'net.0.weight': 1.0}
    """

    def __init__(self, history: History, patterns: Sequence[str]) -> None:
        self._whole = history
        self._patterns = tuple(patterns)
        self._is_heard: dict[str, bool] = {"": True}
        self._meta = {
            key: self._heard(value) if key in _BY_PLACE else value
            for key, value in history.meta.items()
        }

    def _hears(self, place: str) -> bool:
        if place not in self._is_heard:
            self._is_heard[place] = not any(fnmatchcase(place, p) for p in self._patterns)
        return self._is_heard[place]

    def _heard(self, values: Mapping[str, T]) -> dict[str, T]:
        return {place: value for place, value in values.items() if self._hears(place)}

    @property
    def meta(self) -> dict[str, Any]:
        """See `History.meta`."""
        return self._meta

    @property
    def findings(self) -> list[Finding]:
        """See `History.findings`."""
        return self._whole.findings

    def __len__(self) -> int:
        return len(self._whole)

    @property
    def steps(self) -> list[int]:
        """See `History.steps`."""
        return self._whole.steps

    def metrics(self) -> list[str]:
        """See `History.metrics`."""
        return [metric for metric in self._whole.metrics() if self.places(metric)]

    def places(self, metric: str) -> list[str]:
        """See `History.places`."""
        return [place for place in self._whole.places(metric) if self._hears(place)]

    def series(self, metric: str, place: str = "") -> Series:
        """See `History.series`."""
        return self._whole.series(metric, place) if self._hears(place) else Series([], [])

    def window(self, metric: str, n: int) -> list[tuple[int, dict[str, float]]]:
        """See `History.window`; what only muted places hold counts as absent."""
        found = self._whole.window(metric, n)
        return [(step, heard) for step, values in found if (heard := self._heard(values))]

    def last(self, metric: str) -> dict[str, float]:
        """See `History.last`."""
        return self._heard(self._whole.last(metric))

    def lists(self, metric: str, place: str, n: int | None = None) -> list[tuple[int, list[float]]]:
        """See `History.lists`."""
        return self._whole.lists(metric, place, n) if self._hears(place) else []

    def shown(self, name: str) -> dict[str, list[tuple[int, Any]]]:
        """See `History.shown`."""
        return self._heard(self._whole.shown(name))

    def marks(self) -> Iterator[tuple[int, int, float]]:
        """See `History.marks`."""
        return self._whole.marks()

    def columns(self, metric: str) -> Iterator[tuple[int, Sequence[int], Sequence[float]]]:
        """See `History.columns`."""
        heard = [i for i, place in enumerate(self._whole.places(metric)) if self._hears(place)]
        position = {old: new for new, old in enumerate(heard)}
        for step, indices, values in self._whole.columns(metric):
            kept = [
                (position[i], value)
                for i, value in zip(indices, values, strict=True)
                if i in position
            ]
            if kept:
                yield step, [i for i, _ in kept], [value for _, value in kept]

    def to_pandas(self, metric: str) -> pd.DataFrame:
        """See `History.to_pandas`."""
        frame = self._whole.to_pandas(metric)
        return frame[[place for place in frame.columns if self._hears(place)]]

    def to_arrow(self) -> pa.Table:
        """See `History.to_arrow`."""
        table = self._whole.to_arrow()
        return table.filter([self._hears(place) for place in table["place"].to_pylist()])

    def records(self) -> Iterator[Record]:
        """See `History.records`."""
        for record in self._whole.records():
            yield replace(
                record,
                values={metric: self._heard(values) for metric, values in record.values.items()},
                lists={metric: self._heard(values) for metric, values in record.lists.items()},
            )


def left_out(history: History, pattern: str) -> str:
    """Say how many places a pattern leaves out.

    Example:
        >>> history = History()
        >>> history.update_meta({"parameters": {"net.0.weight": {}, "net.0.bias": {}}})
        >>> left_out(history, "net.0*"), left_out(history, "head*")
        ('2 places left out', 'no such place')
    """
    known = {place for key in _BY_PLACE for place in history.meta.get(key, ())}
    known.update(place for metric in history.metrics() for place in history.places(metric))
    n = sum(fnmatchcase(place, pattern) for place in known)
    return f"{n:,} place{'' if n == 1 else 's'} left out" if n else "no such place"
