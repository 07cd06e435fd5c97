"""How records lie in memory: a flat array of numbers each, and one layout shared by all of them."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")

SHAPES = 32
"""Our choice: monitors that look at every 4th, 8th, 16th and 64th step make about a dozen."""
ROW_COST = 40
"""What a row costs besides its numbers, in numbers of 8 bytes (its objects take 300 bytes)."""
LIST_COST = 20
"""The same for each list in a row (an array and an entry of a dictionary take 150 bytes)."""


class Shape:
    """Which metrics and places the numbers of a row are for; shared by rows that agree in it."""

    __slots__ = ("indices", "starts")

    def __init__(self, indices: Mapping[str, Sequence[int]]) -> None:
        self.indices = dict(indices)
        self.starts: dict[str, int] = {}
        size = 0
        for metric, index in indices.items():
            self.starts[metric] = size
            size += len(index)

    def position(self, metric: str, number: int) -> int | None:
        """Return where a row keeps the number of a metric at a place, None where it is absent."""
        index = self.indices.get(metric, ())
        i = bisect_left(index, number)
        return self.starts[metric] + i if i < len(index) and index[i] == number else None


class Row(NamedTuple):
    """One record, compactly."""

    step: int
    """As in `Record`."""
    epoch: int
    """As in `Record`."""
    seconds: float
    """As in `Record`."""
    optimizer_steps: tuple[int, ...]
    """As in `Record`."""
    shape: Shape
    """What the numbers are for."""
    numbers: array[float]
    """The numbers of all metrics, in the order of the shape."""
    lists: Mapping[str, Mapping[int, array[float]]]
    """Metric to number of place to list."""

    @property
    def metrics(self) -> Iterator[str]:
        """The metrics that this row holds."""
        yield from self.shape.indices
        yield from self.lists

    @property
    def cost(self) -> int:
        """Memory in numbers of 8 bytes."""
        lists = [values for places in self.lists.values() for values in places.values()]
        return ROW_COST + len(self.numbers) + sum(LIST_COST + len(values) for values in lists)

    def column(self, metric: str) -> array[float]:
        """Return the numbers of a metric that this row holds."""
        start = self.shape.starts[metric]
        return self.numbers[start : start + len(self.shape.indices[metric])]


class Layout:
    """The places of each metric, in order of first appearance; it only ever grows.

    Example:
        >>> layout = Layout()
        >>> layout.arrange("m", {"a": 1.0, "b": 2.0})
        (range(0, 2), [1.0, 2.0])
        >>> layout.arrange("m", {"c": 3.0, "a": 1.0})  # "b" is absent, "c" is new
        (array('I', [0, 2]), [1.0, 3.0])
    """

    def __init__(self) -> None:
        self._numbers: dict[str, dict[str, int]] = {}
        self._known: dict[str, tuple[list[str], Sequence[int]]] = {}
        self._recent: deque[Shape] = deque(maxlen=SHAPES)
        self._changed: dict[str, None] = {}

    def metrics(self) -> list[str]:
        """Return all metrics, in order of first appearance."""
        return list(self._numbers)

    def places(self, metric: str) -> list[str]:
        """Return the places of a metric, [] when it is unknown."""
        return list(self._numbers.get(metric, ()))

    def number(self, metric: str, place: str) -> int | None:
        """Return the position of a place among its metric's, None when it is unknown."""
        return self._numbers.get(metric, {}).get(place)

    def numbers(self, metric: str) -> Mapping[str, int]:
        """Return the position of each place among its metric's; to be read only."""
        return self._numbers.get(metric, {})

    def add(self, metric: str, places: Collection[str]) -> None:
        """Append the places that are new."""
        numbers = self._numbers.setdefault(metric, {})
        for place in places:
            if place not in numbers:
                numbers[place] = len(numbers)
                self._changed[metric] = None

    def add_all(self, places: Mapping[str, Collection[str]]) -> None:
        """Append the places of each metric that are new."""
        for metric, own in places.items():
            self.add(metric, own)

    def take_changes(self) -> dict[str, list[str]]:
        """Return the places of the metrics that changed since the last call."""
        changes = {metric: self.places(metric) for metric in self._changed}
        self._changed.clear()
        return changes

    def arrange(self, metric: str, values: Mapping[str, T]) -> tuple[Sequence[int], list[T]]:
        """Return the numbers of the places, ascending, and the values in the same order."""
        names = list(values)
        known = self._known.get(metric)
        if known is not None and known[0] == names:
            return known[1], list(values.values())
        self.add(metric, names)
        numbers = self._numbers[metric]
        ordered = sorted(names, key=numbers.__getitem__)
        index = compact_index([numbers[name] for name in ordered])
        if ordered == names:
            self._known[metric] = (names, index)
        return index, [values[name] for name in ordered]

    def shape(self, indices: Mapping[str, Sequence[int]]) -> Shape:
        """Return the shape of these columns, the same object as lately where it is equal."""
        for shape in self._recent:
            if shape.indices == indices and list(shape.indices) == list(indices):
                return shape
        shape = Shape(indices)
        self._recent.appendleft(shape)
        return shape


def compact_index(numbers: list[int]) -> Sequence[int]:
    """Return ascending numbers of places as a range where none is left out."""
    if numbers and numbers[-1] == len(numbers) - 1:
        return range(len(numbers))
    return array("I", numbers)
