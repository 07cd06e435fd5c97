"""`Snapshot`: a history while it is judged, so that what is read twice costs once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from lightning_diag.finding import Finding
from lightning_diag.history import History, Series
from lightning_diag.record import Record

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


class Snapshot(History):
    """What a history says at one moment; to be read only, by rules that change nothing of it.

    Forty rules ask for the same few series, for the newest numbers of metrics that this run does
    not have, and for the first record.

    Args:
        history: What is judged. When it has grown, go on with `of`.

    Example:
        >>> history = History()
        >>> history.append(Record(0, {"gradient/norm": {"net.0.weight": 1.0}}))
        >>> Snapshot(history).last("gradient/norm")
        {'net.0.weight': 1.0}
    """

    def __init__(self, history: History) -> None:
        self._whole = history
        self._series: dict[tuple[str, str], Series] = {}
        self._windows: dict[tuple[str, int], list[tuple[int, dict[str, float]]]] = {}
        self._last: dict[str, dict[str, float]] = {}

    def of(self, history: History) -> Snapshot:
        """Return a snapshot of a history as it is now: this one, if it is of the same history.

        Rules keep what took them long by the history that they were given.
        """
        if history is not self._whole:
            return Snapshot(history)
        for kept in (self._series, self._windows, self._last):
            kept.clear()
        for name in ("steps", "_metrics", "_known", "_first"):
            self.__dict__.pop(name, None)
        return self

    @property
    def meta(self) -> dict[str, Any]:
        """See `History.meta`."""
        return self._whole.meta

    @property
    def findings(self) -> list[Finding]:
        """See `History.findings`."""
        return self._whole.findings

    def __len__(self) -> int:
        return len(self._whole)

    @cached_property
    def steps(self) -> list[int]:
        """See `History.steps`."""
        return self._whole.steps

    @cached_property
    def _metrics(self) -> list[str]:
        return self._whole.metrics()

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self._metrics)

    def metrics(self) -> list[str]:
        """See `History.metrics`."""
        return self._metrics

    def places(self, metric: str) -> list[str]:
        """See `History.places`."""
        return self._whole.places(metric)

    def series(self, metric: str, place: str = "") -> Series:
        """See `History.series`."""
        key = metric, place
        if key not in self._series:
            self._series[key] = self._whole.series(metric, place)
        return self._series[key]

    def window(self, metric: str, n: int) -> list[tuple[int, dict[str, float]]]:
        """See `History.window`."""
        if metric not in self._known:
            return []
        key = metric, n
        if key not in self._windows:
            self._windows[key] = self._whole.window(metric, n)
        return self._windows[key]

    def last(self, metric: str) -> dict[str, float]:
        """See `History.last`."""
        if metric not in self._known:
            return {}
        if metric not in self._last:
            self._last[metric] = self._whole.last(metric)
        return self._last[metric]

    def lists(self, metric: str, place: str, n: int | None = None) -> list[tuple[int, list[float]]]:
        """See `History.lists`."""
        return self._whole.lists(metric, place, n) if metric in self._known else []

    def shown(self, name: str) -> dict[str, list[tuple[int, Any]]]:
        """See `History.shown`."""
        return self._whole.shown(name)

    def marks(self) -> Iterator[tuple[int, int, float]]:
        """See `History.marks`."""
        return self._whole.marks()

    def columns(self, metric: str) -> Iterator[tuple[int, Sequence[int], Sequence[float]]]:
        """See `History.columns`."""
        return self._whole.columns(metric)

    def to_pandas(self, metric: str) -> pd.DataFrame:
        """See `History.to_pandas`."""
        return self._whole.to_pandas(metric)

    def to_arrow(self) -> pa.Table:
        """See `History.to_arrow`."""
        return self._whole.to_arrow()

    @cached_property
    def _first(self) -> list[Record]:
        return list(islice(self._whole.records(), 1))

    def records(self) -> Iterator[Record]:
        """See `History.records`."""
        yield from self._first
        yield from islice(self._whole.records(), 1, None)
