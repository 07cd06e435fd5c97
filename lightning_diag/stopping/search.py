"""Random search from coarse to fine, on a log scale: small helpers around a study of Optuna's.

Nothing here imports Optuna: studies and trials are asked for what they are known to have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lightning_diag.warning import warn

LEAST_TRIALS = 5
"""Finished trials that edges and narrower ranges are read from at least. Our choice: of fewer the
best one is near an edge more often than not."""
MARGIN = 0.05
"""Share of a range that is its edge in any case. Our choice: so few trials lie in it that noise may
have made them worse than the best one."""
GAPS = 3
"""Mean gaps between trials within which the outermost one is at the edge. Of n random values the
outermost lies within 3 / (n + 1) of the end in 95 of 100 searches."""


@dataclass(frozen=True)
class Range:
    """Where to draw a parameter from.

    Example:
        >>> Range(1e-4, 1e-2).at(0.5)
        0.001

    Raises:
        ValueError: If it is empty, not finite, or logarithmic and not above 0.
    """

    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    log: bool = True
    """Whether to draw on a logarithmic scale."""
    whole: bool = False
    """Whether values are whole numbers."""

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(
                f"`low` must be below `high`, both finite, got {self.low} and {self.high}."
            )
        if self.log and self.low <= 0:
            raise ValueError(
                f"`low` must be above 0 on a log scale, got {self.low}: say `log=False` instead."
            )

    def position(self, value: float) -> float:
        """Return where a value lies, 0 (low) to 1 (high), on the range's own scale.

        Example:
            >>> Range(1e-4, 1.0).position(1e-3)
            0.25
        """
        low, high = self._scaled(self.low), self._scaled(self.high)
        return (self._scaled(value) - low) / (high - low)

    def at(self, position: float) -> float:
        """Return the value at a position, which may lie beyond 0 and 1; ends are exact."""
        if position in (0.0, 1.0):
            return self.high if position else self.low
        low, high = self._scaled(self.low), self._scaled(self.high)
        place = low + position * (high - low)
        return 10**place if self.log else place

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value


@dataclass(frozen=True)
class Edge:
    """A best value that lies at the edge of its range.

    Example:
        >>> print(Edge("lr", "high", 0.09, Range(1e-4, 0.1), 0.985, 0, 20))
        The best `lr`, 0.09, lies at the upper edge of its range 0.0001 to 0.1 (at 98 % of it, with
        0 of 20 trials beyond): widen it above 0.1 and search again.
    """

    name: str
    """The parameter."""
    side: Literal["low", "high"]
    """Which end to widen."""
    value: float
    """The best value."""
    range: Range
    """What it was drawn from."""
    position: float
    """Where it lies in it, 0 to 1, on the range's own scale."""
    beyond: int
    """Trials that were tried between it and the end."""
    trials: int
    """Trials in all."""

    def __str__(self) -> str:
        end, beyond = ("lower", "below") if self.side == "low" else ("upper", "above")
        limit = self.range.low if self.side == "low" else self.range.high
        first, last = f"{self.range.low:.4g}", f"{self.range.high:.4g}"
        return (
            f"The best `{self.name}`, {self.value:.4g}, lies at the {end} edge of its range "
            f"{first} to {last} (at {100 * self.position:.0f} % of it, with {self.beyond} of "
            f"{self.trials} trials beyond): widen it {beyond} {limit:.4g} "
            "and search again."
        )


def suggest(trial: Any, ranges: Mapping[str, Range]) -> dict[str, float]:
    """Draw each parameter of a trial from its range.

    Args:
        trial: Optuna's.

    Returns:
        Values by name; those of whole ranges are `int`.
    """
    return {
        name: (trial.suggest_int if each.whole else trial.suggest_float)(
            name, _end(each, each.low), _end(each, each.high), log=each.log
        )
        for name, each in ranges.items()
    }


def ranges_of(study: Any) -> dict[str, Range]:
    """Return what the numbers of a study were drawn from, as its last trial had it."""
    found: dict[str, Range] = {}
    for trial in study.trials:
        for name, each in trial.distributions.items():
            low, high = getattr(each, "low", None), getattr(each, "high", None)
            if low is not None and high is not None and low < high:
                found[name] = Range(low, high, each.log, whole="Int" in type(each).__name__)
    return found


def edge_of_range(study: Any, *, margin: float = MARGIN) -> list[Edge]:
    """Find the parameters whose best value lies at the edge of its range, and warn of each (L6).

    There the best of all may lie outside. A best value is at the edge if no trial, pruned ones
    included, was tried between it and an end that is no further than three mean gaps between trials
    away, 3 / (n + 1) of the range; or if it lies within `margin` of an end.

    Where a parameter does not matter its best value lies anywhere, and at an edge by chance in
    about 2 / n + 2 `margin` of all searches.

    Args:
        study: Optuna's, with one objective.
        margin: Share of the range that is its edge on each side in any case, on the range's own
            scale, 0 to below 0.5.

    Raises:
        ValueError: If fewer than 5 trials have finished, or `margin` is out of range.
    """
    if not 0 <= margin < 0.5:
        raise ValueError(f"`margin` must be at least 0 and below 0.5, got {margin}.")
    best = _finished(study)[0]
    found = []
    for name, each in ranges_of(study).items():
        if name in best.params:
            tried = [trial.params[name] for trial in study.trials if name in trial.params]
            edge = edge_of_values(name, best.params[name], each, tried, margin=margin)
            found += [edge] if edge else []
    for edge in found:
        warn(str(edge))
    return found


def edge_of_values(
    name: str, best: float, drawn_from: Range, tried: Sequence[float], *, margin: float = MARGIN
) -> Edge | None:
    """Say whether the best of the values that were tried lies at the edge of their range.

    Example:
        >>> tried = [0.0002, 0.001, 0.004, 0.03]
        >>> edge_of_values("lr", 0.03, Range(1e-4, 0.1), tried).side
        'high'
        >>> edge_of_values("lr", 0.004, Range(1e-4, 0.1), tried) is None
        True
    """
    position, reach = drawn_from.position(best), GAPS / (len(tried) + 1)
    sides: tuple[tuple[Literal["low", "high"], float, int], ...] = (
        ("low", position, sum(value < best for value in tried)),
        ("high", 1 - position, sum(value > best for value in tried)),
    )
    for side, distance, beyond in sorted(sides, key=lambda each: each[1]):
        if distance <= margin or (beyond == 0 and distance <= reach):
            return Edge(name, side, float(best), drawn_from, position, beyond, len(tried))
    return None


def narrow(
    study: Any, ranges: Mapping[str, Range] | None = None, *, best: float = 0.25
) -> dict[str, Range]:
    """Return finer ranges: those in which the best trials lie, and one gap more on each side.

    The gap is the mean distance of the finished trials, 1/(n + 1) of the range: the best value may
    lie between the outermost of the best trials and its neighbour. Ranges are never left: widen
    what `edge_of_range` names before.

    Args:
        study: Optuna's, with one objective.
        ranges: What was drawn from; None reads it from the study.
        best: Share of the finished trials that are the best ones, above 0 to 1, and 3 at least.

    Raises:
        ValueError: If fewer than 5 trials have finished, or `best` is out of range.

    References:
        Bergstra and Bengio, Random search for hyper-parameter optimization, JMLR 13, 2012.
        Stanford's CS231n, "Neural Networks Part 3", coarse to fine.
    """
    if not 0 < best <= 1:
        raise ValueError(f"`best` must be above 0 and at most 1, got {best}.")
    trials = _finished(study)
    chosen = trials[: max(3, math.ceil(best * len(trials)))]
    finer = {}
    for name, each in (ranges_of(study) if ranges is None else ranges).items():
        places = [each.position(trial.params[name]) for trial in chosen if name in trial.params]
        gap = 1 / (len(trials) + 1)
        finer[name] = _part(each, min(places) - gap, max(places) + gap) if places else each
    return finer


def _part(whole: Range, first: float, last: float) -> Range:
    low, high = whole.at(max(first, 0.0)), whole.at(min(last, 1.0))
    if whole.whole:
        low, high = max(math.floor(low), whole.low), min(math.ceil(high), whole.high)
    return Range(low, high, whole.log, whole.whole) if low < high else whole


def _finished(study: Any) -> Sequence[Any]:
    """Return the trials that have a finite value, the best first."""
    done = [t for t in study.trials if t.state.name == "COMPLETE" and math.isfinite(t.value)]
    if len(done) < LEAST_TRIALS:
        raise ValueError(
            f"`study` must have at least {LEAST_TRIALS} finished trials, got {len(done)}: too few "
            "to say where the best values lie."
        )
    rises = study.direction.name == "MAXIMIZE"
    return sorted(done, key=lambda trial: trial.value, reverse=rises)


def _end(each: Range, value: float) -> float:
    return round(value) if each.whole else value
