"""`GradientMonitor`: gradients of each parameter and layer, before and after clipping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from lightning_diag.measure.base import Columns
from lightning_diag.measure.gradient import (
    GradientMeasure,
    depth_ratio,
    layer_norms,
    root_sum_square,
    squares,
)
from lightning_diag.measure.spreads import Spreads
from lightning_diag.measure.tally import Joined, Tally
from lightning_diag.monitors.base import Digest, Monitor, extreme, summarised
from lightning_diag.probe.eager import CompiledModels
from lightning_diag.probe.run import OptimizerStep, Run

_CLIPPED = "clipped"
_SCALE = "loss_scale"
_ZEROS_FIRST, _ZEROS_APART = 16, 4
"""Our choice: zeros of the first 16 steps, then of steps that are at least 4 apart: counting them
costs a third of all that is done with gradients, and a share of zeros changes slowly."""
_UNTOUCHED = 0.9999
"""Our choice: clipping that leaves this much of the norm is rounding."""


class GradientMonitor(Monitor):
    """Log the gradients that the optimizer gets: of each parameter, each layer and in all (W1, W2).

    Gradients are read just before the optimizer's step: accumulated over micro-batches, averaged
    over ranks, unscaled, and not yet clipped (P4, P34). With manual optimisation, whoever clips
    does so before: then these are the clipped ones.

    Args:
        every_n_steps: Optimizer steps between two looks, at least 1; None takes the trainer's
            `log_every_n_steps`.
        max_overhead: Share of the training time that watching may cost, above 0.
        startup_seconds: Seconds that watching may cost beyond that share, in all.
        compiled_models: See `Doctor`.

    Logs:
        ``diag/gradient/total_norm``: L2 norm over all parameters, before clipping.
        ``diag/gradient/clipped_fraction``: share of the watched steps that were clipped, 0 to 1.
        ``diag/gradient/depth_ratio``: RMS gradient of the first layer over that of the last.
        ``diag/gradient/nonfinite_count``: NaN and infinite elements.
        The history gets every parameter and layer, see docs/architecture.md; shares of zeros at
        steps at least four apart, after the first 16; and histograms of eight weights' gradients at
        every 16th look.

    Cost:
        Two passes over the gradients on a watched step, one more where they are clipped and one at
        most at every fourth step; at every 16th look a few over 2,048 elements of at most eight
        gradients.

    Example:
        >>> GradientMonitor(every_n_steps=10).every_n_steps
        10
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
        self._measure = GradientMeasure()
        self._spreads = Spreads()
        self._labels: dict[tuple[str, ...], str] = {}
        self._run: Run | None = None
        self._clips = False
        self._seen = self._clipped = 0
        self._counted: dict[int, int] = {}

    def prepare(self, run: Run) -> None:
        """See `Observer.prepare`."""
        self._run = run
        self._clips = run.clips()
        self._spreads.prepare(run.weights, self.tag)

    def gradients(self, step: OptimizerStep, tally: Tally) -> None:
        """See `Observer.gradients`."""
        if not step.parameters:
            return
        self._labels[step.names] = step.label
        gradients = [parameter.grad for parameter in step.parameters]
        columns = self._measure.observe(
            gradients, step.scale, counts_zeros=self._counts_zeros(step.index)
        )
        tally.add(self.tag + "GradientMeasure", step.names, columns)
        if step.scale is None:  # others are still multiplied by a scale that is on the device
            self._spreads.observe(step.index, step.names, gradients, tally)
        scale = None if self._run is None else self._run.loss_scale()
        if scale is not None:
            empty = scale.new_zeros(1, 0)
            tally.add(self.tag + _SCALE, ("",), Columns(empty, scale.detach().clone().view(1, 1)))

    def _counts_zeros(self, index: int) -> bool:
        """Whether zeros are due in this step of an optimizer, which is then taken note of."""
        now = 0 if self._run is None else self._run.step
        is_due = now < _ZEROS_FIRST or now - self._counted.get(index, -_ZEROS_APART) >= _ZEROS_APART
        if is_due:
            self._counted[index] = now
        return is_due

    def stepped(self, step: OptimizerStep, tally: Tally) -> None:
        """See `Observer.stepped`."""
        if not self._clips or not step.parameters:
            return
        gradients = [parameter.grad for parameter in step.parameters]
        tally.add(self.tag + _CLIPPED, step.names, squares(gradients))

    def digest(self, joined: Joined, run: Run, step: int) -> Digest:
        """See `Observer.digest`."""
        digest = Digest(summarised(self._measure, joined, self.tag))
        norms = digest.values.get("gradient/norm", {})
        layers = {place.name: place.layer for place in run.places}
        digest.values["gradient/layer_norm"] = layer_norms(norms, layers)
        for key, columns in joined.columns.items():
            if key.measure == self.tag + "GradientMeasure":
                label = self._labels.get(key.places, "")
                parts = [norms[name] for name in key.places if name in norms]
                if parts:
                    digest.put("gradient/total_norm", label, root_sum_square(parts))
            elif key.measure == self.tag + _CLIPPED:
                label = self._labels.get(key.places, "")
                sums, seen = columns.sums.unbind(1)
                observed = seen > 0
                if bool(observed.any()):
                    clipped = float((sums[observed] / seen[observed]).sum().sqrt())
                    digest.put("gradient/clipped_norm", label, clipped)
            elif key.measure == self.tag + _SCALE:
                digest.put("amp/scale", "", float(columns.maxima[0, 0]))
        self._add_clipping(digest)
        shapes = {place.name: tuple(place.parameter.shape) for place in run.places}
        ratio = depth_ratio(norms, shapes)
        if ratio is not None:
            digest.put("gradient/depth_ratio", "", ratio)
        histograms = self._spreads.digest(joined)
        self._spreads.expect(norms)
        return Digest(
            {metric: values for metric, values in digest.values.items() if values},
            lists={"gradient/histogram": histograms} if histograms else {},
        )

    def _add_clipping(self, digest: Digest) -> None:
        totals = digest.values.get("gradient/total_norm", {})
        if self._run is None or not totals or not (self._run.automatic or self._clips):
            return
        if not self._clips:
            digest.values["gradient/clipped_norm"] = dict(totals)
        for label, after in digest.values.get("gradient/clipped_norm", {}).items():
            before = totals.get(label, 0.0)
            if not (before > 0 and math.isfinite(before)):
                continue
            coefficient = after / before
            digest.put("gradient/clip_coefficient", label, coefficient)
            self._seen += 1
            self._clipped += coefficient < _UNTOUCHED
            digest.put("gradient/clipped_fraction", label, self._clipped / self._seen)

    def headline(self, values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """See `Observer.headline`."""
        totals = values.get("gradient/total_norm", {"": math.nan})
        names = {label: "/".join(filter(None, ("gradient/total_norm", label))) for label in totals}
        bad = values.get("gradient/nonfinite_count", {})
        scalars = {names[label]: total for label, total in list(totals.items())[:2]}
        scalars["gradient/clipped_fraction"] = extreme(values, "gradient/clipped_fraction", max)
        scalars["gradient/nonfinite_count"] = float(sum(bad.values())) if bad else math.nan
        if len(totals) == 1:
            scalars["gradient/depth_ratio"] = extreme(values, "gradient/depth_ratio", max)
        if self._run is not None and self._run.scaler is not None:
            scalars["amp/scale"] = extreme(values, "amp/scale", max)
        return scalars

    def observer_state(self) -> dict[str, Any]:
        """See `Observer.observer_state`."""
        return {
            "seen": self._seen,
            "clipped": self._clipped,
            "counted": dict(self._counted),
            "spreads": self._spreads.state(),
        }

    def load_observer_state(self, state: Mapping[str, Any]) -> None:
        """See `Observer.load_observer_state`."""
        self._seen = int(state.get("seen", 0))
        self._clipped = int(state.get("clipped", 0))
        self._counted = {int(index): step for index, step in state.get("counted", {}).items()}
        self._spreads.load(state.get("spreads", {}))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run behind."""
        return {**super().__getstate__(), "_run": None}
