"""`BatchNormMonitor`: whether batch norm learns the statistics of the batches it sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lightning_diag.measure.base import CallMeasure
from lightning_diag.measure.batch_norm import BatchNormMeasure, Update
from lightning_diag.measure.tally import Joined, Tally
from lightning_diag.monitors.base import Digest, Monitor, summarised
from lightning_diag.probe.eager import CompiledModels
from lightning_diag.probe.places import trained_modules
from lightning_diag.probe.run import Run

_EVERY = 8
"""Our choice: steps from one look to the next, at least: running statistics change slowly, and so
looking costs the same share of the time however many steps are watched. At first they are still
those of the start."""
_BatchNorm = nn.modules.batchnorm._BatchNorm


class BatchNormMonitor(Monitor):
    """Log how far batch statistics are from the running ones that evaluation uses (W14).

    Looks at the calls of ``nn.BatchNorm1d`` to ``3d`` that train and keep running statistics, on
    watched steps that are eight steps apart or more. Batches of several ranks count each on its
    own, as the layer sees them; a synchronised layer over several ranks does not call the function
    that is watched, and is not observed.

    Args:
        every_n_steps: Optimizer steps between two looks, at least 1; None takes the trainer's
            `log_every_n_steps`.
        max_overhead: Share of the training time that watching may cost, above 0.
        startup_seconds: Seconds that watching may cost beyond that share, in all.
        compiled_models: See `Doctor`.

    Logs:
        Nothing to loggers. The history gets every call, see docs/architecture.md.

    Cost:
        A dozen operations on the statistics of each layer, none on its input, on one step in
        eight at most.

    Example:
        >>> BatchNormMonitor(every_n_steps=10).every_n_steps
        10

    References:
        Ioffe and Szegedy, Batch Normalization, ICML 2015, arXiv:1502.03167.
    """

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
        self._layers: dict[str, _BatchNorm] = {}
        self._before: dict[str, tuple[Tensor, Tensor]] = {}
        self._run: Run | None = None
        self._next = _EVERY - 1
        self._looked_at: int | None = None
        self._measure = BatchNormMeasure(self._remember, self._recall, self._is_due)

    def prepare(self, run: Run) -> None:
        """See `Observer.prepare`."""
        paths = trained_modules(run.module)
        self._layers = {
            paths[id(module)]: module
            for module in run.module.modules()
            if isinstance(module, _BatchNorm) and id(module) in paths
        }
        self._before = {}
        self._run, self._looked_at = run, None

    def call_measures(self) -> Sequence[CallMeasure]:
        """See `Observer.call_measures`."""
        return (self._measure,)

    def _is_due(self) -> bool:
        """Return whether this step is to be looked at; the same for all its micro-batches."""
        step = 0 if self._run is None else self._run.step
        if step < self._next:
            return False
        self._looked_at = step
        return True

    def _remember(self, place: str) -> None:
        layer = self._layers.get(place.rpartition("/")[0])
        if layer is None or not layer.training:
            return
        mean, variance = layer.running_mean, layer.running_var
        if isinstance(mean, Tensor) and isinstance(variance, Tensor):
            self._before[place] = (mean.clone(), variance.clone())

    def _recall(self, place: str) -> Update | None:
        before = self._before.pop(place, None)
        layer = self._layers.get(place.rpartition("/")[0])
        if before is None or layer is None:
            return None
        mean, variance = layer.running_mean, layer.running_var
        if not isinstance(mean, Tensor) or not isinstance(variance, Tensor):
            return None
        factor: float | Tensor = 0.0 if layer.momentum is None else layer.momentum
        if layer.momentum is None and isinstance(layer.num_batches_tracked, Tensor):
            factor = 1 / layer.num_batches_tracked  # a mean over all batches so far
        if not isinstance(factor, Tensor) and factor <= 0:
            return None
        return Update((before[0], mean), (before[1], variance), factor, layer.eps)

    def collect(self, tally: Tally) -> None:
        """See `Observer.collect`."""
        if self._looked_at is not None:
            self._next, self._looked_at = self._looked_at + _EVERY, None

    def digest(self, joined: Joined, run: Run, step: int) -> Digest:
        """See `Observer.digest`."""
        return Digest(summarised(self._measure, joined, self.tag))

    def observer_state(self) -> dict[str, Any]:
        """See `Observer.observer_state`."""
        return {"next": self._next}

    def load_observer_state(self, state: Mapping[str, Any]) -> None:
        """See `Observer.load_observer_state`."""
        self._next = int(state.get("next", _EVERY - 1))

    def __getstate__(self) -> dict[str, object]:
        """Leave layers and trainer behind."""
        return {**super().__getstate__(), "_layers": {}, "_before": {}, "_run": None}
