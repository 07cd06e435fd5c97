"""`UpdateRatioLogger`: how far each optimizer step moves each weight, against its size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import ClassVar

import torch
from torch import Tensor

from lightning_diag.measure.base import Columns
from lightning_diag.measure.shards import local_part
from lightning_diag.measure.tally import Joined, Tally
from lightning_diag.measure.update import UpdateMeasure
from lightning_diag.monitors.base import Digest, Monitor, extreme, summarised
from lightning_diag.probe.eager import CompiledModels
from lightning_diag.probe.run import OptimizerStep, Run

_SKIPPED = "skipped_step"


class UpdateRatioLogger(Monitor):
    """Log the norm of each weight's real change over the norm it had before (W6, P37).

    About 1e-3 per weight tensor is usual; much less learns slowly, much more is unstable. The
    change is measured on the weights, so it holds for any optimizer, weight decay and clipping. A
    step that the grad scaler skipped has no ratio, and a weight that was all zero has none either:
    its change is given alone.

    Args:
        every_n_steps: Optimizer steps between two looks, at least 1; None takes the trainer's
            `log_every_n_steps`.
        max_overhead: Share of the training time that watching may cost, above 0.
        startup_seconds: Seconds that watching may cost beyond that share, in all.
        compiled_models: See `Doctor`.

    Logs:
        ``diag/update/ratio_median``, ``_min`` and ``_max``: over weights of two or more dimensions.
        ``diag/update/skipped``: 1 where the grad scaler skipped the step.
        The history gets every parameter, see docs/architecture.md.

    Cost:
        A copy of the weights from just before a watched step to just after it, when activations
        have been freed already, and three passes over them.

    Example:
        >>> UpdateRatioLogger().every_n_steps is None
        True
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
        self._measure = UpdateMeasure()
        self._before: dict[int, list[Tensor]] = {}
        self._weights: set[str] = set()
        self._names: dict[str, tuple[str, ...]] = {}

    def prepare(self, run: Run) -> None:
        """See `Observer.prepare`."""
        self._before.clear()
        self._weights = set()

    def gradients(self, step: OptimizerStep, tally: Tally) -> None:
        """See `Observer.gradients`."""
        self._before[step.index] = [local_part(p.detach())[0].clone() for p in step.parameters]

    def stepped(self, step: OptimizerStep, tally: Tally) -> None:
        """See `Observer.stepped`."""
        before = self._before.pop(step.index, [])
        if before:
            tally.add(
                self.tag + "UpdateMeasure",
                step.names,
                self._measure.observe(before, step.parameters),
            )
        self._note(step, tally, 0.0 if step.skipped is None else step.skipped)

    def skipped(self, step: OptimizerStep, tally: Tally) -> None:
        """See `Observer.skipped`."""
        self._before.pop(step.index, None)
        self._note(step, tally, 1.0)

    def _note(self, step: OptimizerStep, tally: Tally, skipped: Tensor | float) -> None:
        device = step.parameters[0].device if step.parameters else torch.device("cpu")
        if isinstance(skipped, Tensor):
            skipped = skipped.detach().clone().reshape(())
        self._names[step.label] = step.names
        tally.add(self.tag + _SKIPPED, (step.label,), Columns.of(device, [()], [(skipped,)]))

    def digest(self, joined: Joined, run: Run, step: int) -> Digest:
        """See `Observer.digest`."""
        # not before: lazy modules have no shapes yet when a fit begins
        self._weights = {place.name for place in run.places if place.parameter.dim() > 1}
        digest = Digest(summarised(self._measure, joined, self.tag))
        for key, columns in joined.columns.items():
            if key.measure != self.tag + _SKIPPED:
                continue
            label = key.places[0]
            skipped = float(columns.maxima[0, 0]) > 0
            if run.scaler is not None:
                digest.put("update/skipped", label, float(skipped))
            if skipped:
                for metric in ("update/ratio", "update/norm", "update/weight_norm"):
                    for name in self._names.get(label, ()):
                        digest.values.get(metric, {}).pop(name, None)
        return digest

    def headline(self, values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """See `Observer.headline`."""
        ratios = [
            ratio for name, ratio in values.get("update/ratio", {}).items() if name in self._weights
        ]
        return {
            "update/ratio_median": median(ratios) if ratios else math.nan,
            "update/ratio_min": min(ratios, default=math.nan),
            "update/ratio_max": max(ratios, default=math.nan),
            "update/skipped": extreme(values, "update/skipped", max),
        }
