"""`DeadReLUTracker`: the units of each ReLU that no input switches on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_diag.measure.base import CallMeasure
from lightning_diag.measure.dead_relu import FiredMeasure, SilenceCounter
from lightning_diag.measure.tally import Joined
from lightning_diag.monitors.base import Digest, Monitor, extreme
from lightning_diag.probe.eager import CompiledModels
from lightning_diag.probe.run import Run

_LISTED_UNITS = 64
"""Indices of dead units that a record holds; the fraction counts them all."""


class DeadReLUTracker(Monitor):
    """Track the units of each ReLU that no input switched on (W5, P46).

    A unit is *dead* if its output was zero for every sample, position and rank for at least
    `window` samples in a row. No gradient reaches a dead unit's weights. Sparsity is not death: a
    unit firing for one sample in a hundred is alive. Only training batches count.

    Args:
        every_n_steps: Optimizer steps between two looks, at least 1; None takes the trainer's
            `log_every_n_steps`.
        window: Samples without firing after which a unit is dead, at least 1; the size of the
            training set where that is smaller. A unit firing with probability p stays silent over
            n samples with probability (1 - p)^n: 5,000 samples separate p = 0.1 % from dead with
            99.3 % certainty.
        max_overhead: Share of the training time that watching may cost, above 0.
        startup_seconds: Seconds that watching may cost beyond that share, in all.
        compiled_models: See `Doctor`.

    Logs:
        ``diag/dead_relu/fraction_mean`` and ``_max``: share of dead units over all ReLUs, and of
        the worst one, 0 to 1. The history gets every ReLU, see docs/architecture.md.

    Shape:
        ``(batch, units)`` and ``(batch, channels, *)`` count dimension 1; after a linear layer or
        a matrix product ``(batch, *, units)`` counts the last.

    Raises:
        ValueError: If an argument is out of range.

    Cost:
        One maximum per ReLU on a watched step, 8 bytes per unit to the host.

    Example:
        >>> DeadReLUTracker(window=1000).window
        1000

    References:
        Lu et al., Dying ReLU and Initialization, 2019, arXiv:1903.06733.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        *,
        window: int = 5000,
        max_overhead: float = 0.01,
        startup_seconds: float = 5.0,
        compiled_models: CompiledModels = "eager",
    ) -> None:
        super().__init__(
            every_n_steps,
            max_overhead=max_overhead,
            startup_seconds=startup_seconds,
            compiled_models=compiled_models,
            identity={"window": window},
        )
        if window < 1:
            message = f"`window` must be at least 1 sample, got {window}."
            raise ValueError(message)
        self.window = window
        self._counter = SilenceCounter(window)

    def prepare(self, run: Run) -> None:
        """See `Observer.prepare`."""
        samples = run.train_samples
        self._counter.window = min(self.window, samples) if samples else self.window

    def call_measures(self) -> Sequence[CallMeasure]:
        """See `Observer.call_measures`."""
        return (FiredMeasure(),)

    def digest(self, joined: Joined, run: Run, step: int) -> Digest:
        """See `Observer.digest`."""
        digest = Digest()
        units: dict[str, list[float]] = {}
        for key, columns in joined.columns.items():
            if key.measure != self.tag + "FiredMeasure":
                continue
            place, samples = key.places[0], float(columns.sums[0, 0])
            outputs = self._counter.update(place, step, samples, columns.maxima[0] > 0)
            for output, value in outputs.items():
                digest.put(f"dead_relu/{output}", place, value)
            dead = self._counter.dead_units(place)
            if dead:
                units[place] = [float(unit) for unit in dead[:_LISTED_UNITS]]
        if units:
            digest.lists["dead_relu/units"] = units
        return digest

    def headline(self, values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """See `Observer.headline`."""
        fractions = values.get("dead_relu/fraction", {})
        mean = sum(fractions.values()) / len(fractions) if fractions else math.nan
        return {
            "dead_relu/fraction_mean": mean,
            "dead_relu/fraction_max": extreme(values, "dead_relu/fraction", max),
        }

    def observer_state(self) -> dict[str, Any]:
        """See `Observer.observer_state`."""
        return self._counter.state_dict()

    def load_observer_state(self, state: Mapping[str, Any]) -> None:
        """See `Observer.load_observer_state`."""
        self._counter.load_state_dict(state)
