"""`Curve`: the values of a dense metric, step by step, apart from the records that brought them."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

POINT_COST = 2
"""A step and a value, in numbers of 8 bytes."""


class Series(NamedTuple):
    """The numbers of one metric at one place over the run."""

    steps: list[int]
    """Steps at which it was observed, ascending."""
    values: list[float]
    """One number for each of the steps."""


class Stretch(NamedTuple):
    """A part of a dense metric's values."""

    steps: array[int]
    """Ascending."""
    values: array[float]
    """One for each of the steps."""

    @classmethod
    def ending(cls, step: int, values: Sequence[float]) -> Stretch:
        """Return the values of neighbouring steps, of which `step` is the last."""
        return cls(array("q", range(step - len(values) + 1, step + 1)), array("d", values))

    def is_unbroken(self, step: int) -> bool:
        """Return whether these are neighbouring steps, of which `step` is the last."""
        return self.steps[-1] == step and self.steps[0] == step - len(self.steps) + 1


class Curve:
    """Values at ascending steps.

    Example:
        >>> curve = Curve()
        >>> curve.put(Stretch.ending(3, [0.9, 0.8, 0.7]))
        >>> curve.put(Stretch.ending(4, [0.5, 0.4]))  # the newest value of a step counts
        >>> list(curve.steps), list(curve.values)
        ([1, 2, 3, 4], [0.9, 0.8, 0.5, 0.4])
    """

    __slots__ = ("steps", "values")

    def __init__(self) -> None:
        self.steps: array[int] = array("q")
        self.values: array[float] = array("d")

    def put(self, stretch: Stretch) -> None:
        """Append values; what was known of their first step and of later ones is superseded."""
        if stretch.steps:
            self.cut(stretch.steps[0])
        self.steps.extend(stretch.steps)
        self.values.extend(stretch.values)

    def cut(self, step: int) -> None:
        """Forget the values at and after a step."""
        end = bisect_left(self.steps, step)
        del self.steps[end:]
        del self.values[end:]

    def between(self, after: int | None, upto: int | None) -> Stretch:
        """Return the steps and values with ``after < step <= upto``; None leaves a side open."""
        start = 0 if after is None else bisect_right(self.steps, after)
        end = len(self.steps) if upto is None else bisect_right(self.steps, upto)
        return Stretch(self.steps[start:end], self.values[start:end])

    def thin(self, target: int, first: int, own: AbstractSet[int]) -> None:
        """Keep about `target` points: the newest half of them, and older ones evenly spread.

        Args:
            target: Number of points to keep.
            first: Steps up to this one stay, if they take at most an eighth of `target`.
            own: Steps that stay: those of the records kept.
        """
        every = 1
        if self.steps and bisect_right(self.steps, first) > target // 8:
            first = self.steps[0] - 1
        while len(self.steps) > target and every <= self.steps[-1]:
            every *= 2
            newest = len(self.steps) - target // 2
            kept = (
                i
                for i, step in enumerate(self.steps)
                if i >= newest or step % every == 0 or step <= first or step in own
            )
            self._keep(array("q", kept))
        if len(self.steps) > target:
            self._keep(range(len(self.steps) - target, len(self.steps)))

    def spread(self, target: int) -> None:
        """Keep about `target` points: the newest half of them, and older ones evenly spread.

        For values that do not come at every step, so that no step number is special.
        """
        if len(self.steps) <= target:
            return
        newest = len(self.steps) - (target + 1) // 2
        interval = 1
        while True:
            kept: list[int] = []
            for i in range(newest):
                if not kept or self.steps[i] // interval != self.steps[kept[-1]] // interval:
                    kept.append(i)
            if len(kept) <= target // 2 or interval > self.steps[-1]:
                break
            interval *= 2
        self._keep([*kept[: target // 2], *range(newest, len(self.steps))])

    def _keep(self, indices: Sequence[int]) -> None:
        # Generators, since lists of a million numbers would cost ten times what arrays cost.
        self.steps = array("q", (self.steps[i] for i in indices))
        self.values = array("d", (self.values[i] for i in indices))
