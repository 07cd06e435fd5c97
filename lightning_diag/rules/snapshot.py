"""`Snapshot`: a history while it is judged, so that what is read twice costs once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from lightning_diag.finding import Finding
from lightning_diag.history import History, Series
from lightning_diag.record import Record

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

T = TypeVar("T")


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
        self._made: dict[str, Any] = {}
        self._of_model: dict[str, tuple[tuple[object, ...], Any]] = {}

    def of(self, history: History) -> Snapshot:
        """Return a snapshot of a history as it is now: this one, if it is of the same history.

        Rules keep what took them long by the history that they were given.
        """
        if history is not self._whole:
            return Snapshot(history)
        for kept in (self._series, self._windows, self._last, self._made):
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

    def made(self, name: str, make: Callable[[], T]) -> T:
        """Return what `make` returned when it was first called at this moment."""
        if name not in self._made:
            self._made[name] = make()
        kept: T = self._made[name]
        return kept

    def of_model(self, name: str, make: Callable[[], T]) -> T:
        """Return what `make` returned when what the metadata say of the model was last renewed."""
        # A history replaces what it is told anew as a whole.
        sources = tuple(self.meta.get(key) for key in _OF_MODEL)
        known = self._of_model.get(name)
        if known is None or any(a is not b for a, b in zip(known[0], sources, strict=True)):
            known = self._of_model[name] = (sources, make())
        kept: T = known[1]
        return kept


_OF_MODEL = ("parameters", "sites")


def at_once(history: History, name: str, make: Callable[[], T]) -> T:
    """Return `make()`, which says something of a history; of a snapshot it is called but once."""
    return history.made(name, make) if isinstance(history, Snapshot) else make()


def of_model(history: History, name: str, make: Callable[[], T]) -> T:
    """Return `make()`, which reads nothing but parameters and call sites in the metadata.

    Of a snapshot it is called again only when these have changed.
    """
    return history.of_model(name, make) if isinstance(history, Snapshot) else make()
