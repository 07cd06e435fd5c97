"""`GradientNoiseMonitor`: how far gradients of neighbouring steps agree, and the noise scale."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from lightning_diag.measure.base import Columns
from lightning_diag.measure.noise import GradientPairMeasure, batch_size, noise_scale, sample
from lightning_diag.measure.tally import Joined, Tally
from lightning_diag.monitors.base import Digest, Monitor, summarised
from lightning_diag.probe.eager import CompiledModels
from lightning_diag.probe.run import OptimizerStep, Run

_WEIGHTS = 8
"""Our choice: weight tensors that are sampled, evenly spread, since each costs a call."""
_PAIRS = 16
"""Our choice: cosines behind a noise scale; their mean is then off by a quarter of their spread."""
_LEAST_PAIRS = 4
_EARLY = 16
"""Our choice: looks at the start that are all compared; later two of four are."""
_CYCLE = 4
_FAR = 64
"""Our choice: steps beyond which weights have moved too far for a comparison."""
_SAMPLES = "samples"


class GradientNoiseMonitor(Monitor):
    """Log how far gradients of neighbouring watched steps agree, and the noise scale (W15).

    Two batches drawn on their own give gradients whose common part is the true gradient, and whose
    difference is noise; so nothing is computed twice. The comparison is made on at most 16,384
    coordinates of at most 8 weights, the same ones each time. Between two looks the weights move,
    which makes the noise scale look larger; looks more than 64 steps apart are not compared.

    Args:
        every_n_steps: Optimizer steps between two looks, at least 1; None takes the trainer's
            `log_every_n_steps`.
        max_overhead: Share of the training time that watching may cost, above 0.
        startup_seconds: Seconds that watching may cost beyond that share, in all.
        compiled_models: See `Doctor`.

    Logs:
        Nothing to loggers. The history gets the cosine of each pair and the noise scale, see
        docs/architecture.md.

    Cost:
        A copy of the sampled coordinates and three passes over it on two of four watched steps.

    Example:
        >>> GradientNoiseMonitor(every_n_steps=10).every_n_steps
        10

    References:
        McCandlish et al., An Empirical Model of Large-Batch Training, 2018, arXiv:1812.06162.
    """

    reaches_parameters: ClassVar[bool] = True

    def __init__(
        self,
        every_n_steps: int | None = None,
        *,
        max_overhead: float = 0.01,
        startup_seconds: float = 5.0,
        compiled_models: CompiledModels = "eager",
    ) -> None:
        super().__init__(
            every_n_steps,
            max_overhead=max_overhead,
            startup_seconds=startup_seconds,
            compiled_models=compiled_models,
            identity={"every_n_steps": every_n_steps},
        )
        self._measure = GradientPairMeasure()
        self._before: dict[int, tuple[int, Tensor]] = {}
        self._cosines: dict[str, deque[float]] = {}
        self._looks = self._samples = 0
        self._last_step = -_FAR

    def prepare(self, run: Run) -> None:
        """See `Observer.prepare`."""
        self._samples = 0

    @property
    def _is_due(self) -> bool:
        return self._looks < _EARLY or self._looks % _CYCLE < 2

    def batch_started(self, batch: Any, batch_idx: int) -> None:
        """See `Observer.batch_started`."""
        self._samples += batch_size(batch)

    def gradients(self, step: OptimizerStep, tally: Tally) -> None:
        """See `Observer.gradients`."""
        if not self._is_due:
            return
        weights = [p.grad for p in step.parameters if p.dim() > 1]
        now = sample(weights[:: max(1, math.ceil(len(weights) / _WEIGHTS))])
        before = self._before.pop(step.index, None)
        if now is None:
            return
        self._before[step.index] = (self._looks, now)
        if before is None or before[0] != self._looks - 1 or before[1].shape != now.shape:
            return
        name = self.tag + "GradientPairMeasure"
        tally.add(name, (step.label,), self._measure.observe(before[1].to(now), now))
        if self._samples:
            seen = Columns.of(now.device, [(float(self._samples),)])
            tally.add(self.tag + _SAMPLES, (step.label,), seen)

    def collect(self, tally: Tally) -> None:
        """See `Observer.collect`."""
        self._looks += 1
        self._samples = 0

    def digest(self, joined: Joined, run: Run, step: int) -> Digest:
        """See `Observer.digest`."""
        is_near = step - self._last_step <= _FAR
        self._last_step = step
        digest = Digest(summarised(self._measure, joined, self.tag) if is_near else {})
        samples = {
            key.places[0]: float(columns.sums[0, 0])
            for key, columns in joined.columns.items()
            if key.measure == self.tag + _SAMPLES
        }
        for place, cosine in digest.values.get("gradient/cosine", {}).items():
            known = self._cosines.setdefault(place, deque(maxlen=_PAIRS))
            known.append(cosine)
            if len(known) >= _LEAST_PAIRS and place in samples:
                digest.put("gradient/noise_scale", place, noise_scale(known, samples[place]))
        return Digest({metric: values for metric, values in digest.values.items() if values})

    def observer_state(self) -> dict[str, Any]:
        """See `Observer.observer_state`."""
        return {
            "looks": self._looks,
            "last_step": self._last_step,
            "cosines": {place: list(known) for place, known in self._cosines.items()},
            "before": dict(self._before),
        }

    def load_observer_state(self, state: Mapping[str, Any]) -> None:
        """See `Observer.load_observer_state`."""
        known = state.get("cosines", {})
        self._cosines = {place: deque(values, maxlen=_PAIRS) for place, values in known.items()}
        self._looks = int(state.get("looks", 0))
        self._last_step = int(state.get("last_step", -_FAR))
        self._before = {index: tuple(pair) for index, pair in state.get("before", {}).items()}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the gradients behind."""
        return {**super().__getstate__(), "_before": {}}
