"""`Record`: the numbers of one watched step, without torch or Lightning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Values = Mapping[str, Mapping[str, float]]
"""Metric to place to number, such as ``{"gradient/norm": {"net.0.weight": 0.3}}``."""


@dataclass(frozen=True)
class Record:
    """The numbers of one watched optimizer step.

    What was not observed is absent. Non-finite numbers are kept as they are.

    Example:
        >>> record = Record(step=7, values={"gradient/total_norm": {"": 2.5}})
        >>> record.values["gradient/total_norm"][""]
        2.5
    """

    step: int
    """The trainer's step, as its loggers show it: batches that stepped, from 0."""
    values: Values
    """Numbers by metric and place."""
    dense: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Metric to one number for each step since the last record, the last of them for `step`."""
    lists: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    """Metric to place to a list of numbers: histograms, indices of units."""
    epoch: int = 0
    """Epoch of the step, from 0."""
    seconds: float = 0.0
    """Training time since the first step of the run, in seconds; resumed runs go on counting."""
    optimizer_steps: tuple[int, ...] = ()
    """Steps of each optimizer, this one included; one that the grad scaler skipped counts."""
