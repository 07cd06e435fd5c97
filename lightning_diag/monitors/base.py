"""`Monitor`: a Lightning callback that says what to measure; the probe does the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lightning_diag.measure.base import Measure
from lightning_diag.measure.tally import Joined
from lightning_diag.probe.observer import Digest, Observer
from lightning_diag.probe.watcher import Watcher

__all__ = ["Digest", "Monitor", "extreme", "summarised"]


class Monitor(Watcher, Observer):  # type: ignore[misc]  # the two Lightnings' Callback
    """Base of all monitors: works alone in a Trainer's callbacks, or inside `Doctor`.

    Args:
        every_n_steps: Optimizer steps between two looks, at least 1; None takes the trainer's
            `log_every_n_steps`.
        max_overhead: Share of the training time that watching may cost, above 0.
        startup_seconds: Seconds that watching may cost beyond that share, in all.
    """

    @property
    def observers(self) -> Sequence[Observer]:
        """This monitor."""
        return (self,)


def summarised(measure: Measure, joined: Joined, tag: str) -> dict[str, dict[str, float]]:
    """Summarise all joined columns of `measure` at once; return its numbers by metric.

    Args:
        tag: The observer's.
    """
    name = tag + type(measure).__name__
    found = [(key, columns) for key, columns in joined.columns.items() if key.measure == name]
    if not found:
        return {}
    places = [place for key, _ in found for place in key.places]
    sums = torch.cat([columns.sums for _, columns in found])
    maxima = torch.cat([columns.maxima for _, columns in found])
    numbers = measure.summarise(places, sums, maxima)
    return {f"{measure.name}/{output}": values for output, values in numbers.items()}


def extreme(values: Mapping[str, Mapping[str, Any]], metric: str, pick: Any) -> float:
    """Return the largest (or smallest) value of a metric over places, NaN if it has none.

    Example:
        >>> extreme({"update/ratio": {"a": 0.1, "b": 0.3}}, "update/ratio", max)
        0.3
    """
    return float(pick(values.get(metric, {}).values(), default=float("nan")))
