"""`ActivationMonitor`: what each activation function and layer does to the signal."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_diag.measure.activation import (
    OutputMeasure,
    SaturationMeasure,
    TailMeasure,
    VarianceGainMeasure,
    has_tail,
)
from lightning_diag.measure.base import CallMeasure
from lightning_diag.measure.histogram import HistogramMeasure
from lightning_diag.measure.samples import SampleSpreadMeasure
from lightning_diag.measure.tally import Joined, Tally
from lightning_diag.monitors.base import Digest, Monitor, extreme, summarised
from lightning_diag.probe.eager import CompiledModels
from lightning_diag.probe.run import Run

Span = tuple[float, float]
_HISTOGRAM_EVERY = 8
"""Our choice: a histogram costs about as much as all other statistics of a call together."""
_GAIN_FIRST, _GAIN_APART = 16, 4
"""Our choice: gains of the first 16 steps, then of steps that are at least 4 apart. They drift as
slowly as weights do, and looking at the inputs and outputs of all layers costs most of all."""
_FIRST_LOOKS = 4
_SPREAD_EVERY = 16
"""Our choice: a signal is lost from the start, or slowly; the first four looks are all taken."""


class ActivationMonitor(Monitor):
    """Log what activation functions put out and where they are flat (W3, W4, W7, W8).

    Every call counts on its own: of modules, of functions such as ``torch.tanh``, and of in-place
    methods such as ``x.relu_()``; a module used twice has two places. What runs inside a fused
    function (the gates of ``nn.LSTM``, the softmax of scaled dot-product attention) is not visible.

    Args:
        every_n_steps: Optimizer steps between two looks, at least 1; None takes the trainer's
            `log_every_n_steps`.
        bins: Bins of the histograms, at least 2.
        max_overhead: Share of the training time that watching may cost, above 0.
        startup_seconds: Seconds that watching may cost beyond that share, in all.
        compiled_models: See `Doctor`.

    Logs:
        ``diag/activation/saturated_fraction_max``: of the most saturated call, 0 to 1, apart from
        GELU and the like, for which a tail is no fault.
        ``diag/activation/variance_gain_min`` and ``_max``: of layers, output over input variance.
        ``diag/activation/nonfinite_count``: NaN and infinite outputs.
        The history gets every call, see docs/architecture.md, and a histogram of its output on
        every eighth watched step; at steps at least four apart, after the first 16, variance gains,
        shares of exact zeros, and tails of GELU and the like.

    Raises:
        ValueError: If an argument is out of range.

    Cost:
        Three to five passes over the output of each activation function, one to two over the inputs
        of saturating functions, on a watched step; two over inputs and outputs of each layer, at
        most at every fourth step; on one watched step in sixteen one over 32 features of at most
        256 samples.

    Example:
        >>> ActivationMonitor(bins=16).bins
        16
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        *,
        bins: int = 32,
        max_overhead: float = 0.01,
        startup_seconds: float = 5.0,
        compiled_models: CompiledModels = "eager",
    ) -> None:
        super().__init__(
            every_n_steps,
            max_overhead=max_overhead,
            startup_seconds=startup_seconds,
            compiled_models=compiled_models,
            identity={"bins": bins},
        )
        if bins < 2:
            message = f"`bins` must be at least 2 bins of a histogram, got {bins}."
            raise ValueError(message)
        self.bins = bins
        self._measures = (
            OutputMeasure(self._gain_is_due),
            SaturationMeasure(),
            TailMeasure(self._gain_is_due),
            VarianceGainMeasure(self._gain_is_due),
            SampleSpreadMeasure(self._spread_is_due),
        )
        self._ranges: dict[str, Span] = {}
        self._spans: dict[str, Span] = {}
        self._taken: deque[dict[str, Span]] = deque()
        self._looks = 0
        self._gained = -_GAIN_APART
        self._has_begun = False
        self._run: Run | None = None

    def prepare(self, run: Run) -> None:
        """See `Observer.prepare`."""
        self._run = run
        self._ranges.clear()
        self._spans = {}
        self._taken.clear()
        self._has_begun = False

    def call_measures(self) -> Sequence[CallMeasure]:
        """See `Observer.call_measures`."""
        return (
            *self._measures,
            HistogramMeasure(self.bins, self._range_of, self._has_spans),
        )

    def _has_spans(self) -> bool:
        return bool(self._spans)

    def _gain_is_due(self) -> bool:
        step = 0 if self._run is None else self._run.step
        return step < _GAIN_FIRST or step - self._gained >= _GAIN_APART

    def _spread_is_due(self) -> bool:
        return self._looks < _FIRST_LOOKS or self._looks % _SPREAD_EVERY == 0

    def _range_of(self, place: str) -> Span | None:
        return self._spans.get(place)

    def collect(self, tally: Tally) -> None:
        """See `Observer.collect`.

        The bins of a step stand before it begins, and its digest may come after the next one has.
        """
        if self._run is not None and self._gain_is_due():
            self._gained = self._run.step
        self._taken.append(self._spans)
        self._looks += 1
        is_due = self._looks % _HISTOGRAM_EVERY == 1 or not self._has_begun
        self._spans = dict(self._ranges) if is_due else {}
        self._has_begun |= bool(self._spans)

    def digest(self, joined: Joined, run: Run, step: int) -> Digest:
        """See `Observer.digest`."""
        digest = Digest()
        for measure in self._measures:
            for metric, values in summarised(measure, joined, self.tag).items():
                digest.values.setdefault(metric, {}).update(values)
        histograms: dict[str, list[float]] = {}
        spans = self._taken.popleft()
        for key, columns in joined.columns.items():
            if key.measure == self.tag + "HistogramMeasure":
                place = key.places[0]
                histograms[place] = [*spans[place], *columns.sums[0].tolist()]
        if histograms:
            digest.lists["activation/histogram"] = histograms
        for key, columns in joined.columns.items():
            if key.measure == self.tag + "OutputMeasure":
                high, low = float(columns.maxima[0, 0]), -float(columns.maxima[0, 1])
                if math.isfinite(high) and math.isfinite(low) and low < high:
                    self._ranges[key.places[0]] = (low, high)
        return digest

    def headline(self, values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """See `Observer.headline`."""
        bad = values.get("activation/nonfinite_count", {})
        gain = "activation/variance_gain"
        flat = values.get("activation/saturated_fraction", {})
        return {
            "activation/saturated_fraction_max": max(
                (share for place, share in flat.items() if not has_tail(place)), default=math.nan
            ),
            f"{gain}_min": extreme(values, gain, min),
            f"{gain}_max": extreme(values, gain, max),
            "activation/nonfinite_count": float(sum(bad.values())) if bad else math.nan,
        }

    def observer_state(self) -> dict[str, Any]:
        """See `Observer.observer_state`."""
        return {"looks": self._looks, "gained": self._gained}

    def load_observer_state(self, state: Mapping[str, Any]) -> None:
        """See `Observer.load_observer_state`."""
        self._looks = int(state.get("looks", 0))
        self._gained = int(state.get("gained", -_GAIN_APART))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run behind."""
        return {**super().__getstate__(), "_run": None}
