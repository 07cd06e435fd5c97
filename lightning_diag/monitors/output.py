"""`OutputMonitor`: what loss functions are given, and what becomes of it by class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_diag.measure.base import CallMeasure
from lightning_diag.measure.classes import ClassMeasure, ClassPool, accuracy, confusions, counts
from lightning_diag.measure.confusion import ConfusionPool
from lightning_diag.measure.directions import DirectionMeasure
from lightning_diag.measure.output import PredictionMeasure, description
from lightning_diag.measure.tally import Joined, Tally
from lightning_diag.measure.target import SpreadMeasure, TargetMeasure
from lightning_diag.monitors.base import Digest, Monitor, extreme, summarised
from lightning_diag.probe.eager import CompiledModels
from lightning_diag.probe.probe import Probe
from lightning_diag.probe.run import Run

_FIRST, _SPACING = 4, 16
"""Our choice: the first four steps are looked at, then none within 16 of the one before: where
every step is watched that makes the cost a sixteenth, and where few are nothing is lost."""

_START = ("output/loss", "output/mean", "output/std", "target/mean", "target/std")
"""Numbers of the first look that stand beside the description of a call."""


class OutputMonitor(Monitor):
    """Log what the loss function is given as prediction and target (C1, P29).

    Calls of `torch.nn.functional.cross_entropy`, `mse_loss` and the like are seen, also by way of
    ``nn.CrossEntropyLoss`` and the like, wherever in the training step they are; not those under
    ``torch.no_grad``, of detached predictions, or of metrics. A loss that is written out by hand is
    not observed, nor is one within a compiled function that stays compiled. Of losses of pairs,
    triplets, ranks and sequences (CTC) the value and the first trained argument are seen, and no
    target. Of embeddings that `torch.nn.functional.normalize` puts on the unit sphere it is seen
    how alike their directions are, whatever compares them.

    Args:
        every_n_steps: Optimizer steps between two looks, at least 1; None takes the trainer's
            `log_every_n_steps`.
        max_overhead: Share of the training time that watching may cost, above 0.
        startup_seconds: Seconds that watching may cost beyond that share, in all.
        compiled_models: See `Doctor`.

    Logs:
        ``diag/output/accuracy_min``: of the loss call with the lowest, 0 to 1.
        The history gets every call, see docs/architecture.md, at the first four steps and then at
        watched steps that are at least 16 apart; of up to 64 classes also which are taken for
        which, counted as torchmetrics does, every eight looks. Of more than 65,536 elements every
        n-th counts for ranges, classes and targets.

    Raises:
        ValueError: If an argument is out of range.

    Cost:
        About twenty passes over predictions and targets, on the steps that are looked at.

    Example:
        >>> OutputMonitor(every_n_steps=10).every_n_steps
        10
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
        self._measures = (
            PredictionMeasure(self._is_due),
            TargetMeasure(self._is_due),
            SpreadMeasure(self._is_due),
            ClassMeasure(self._is_due),
            DirectionMeasure(self._is_due),
        )
        self._run: Run | None = None
        self._looked = -_SPACING
        self._pools: dict[str, ClassPool] = {}
        self._confused: dict[str, ConfusionPool] = {}

    def prepare(self, run: Run) -> None:
        """See `Observer.prepare`."""
        self._run = run

    def _is_due(self) -> bool:
        step = 0 if self._run is None else self._run.step
        return step < _FIRST or step - self._looked >= _SPACING

    def call_measures(self) -> Sequence[CallMeasure]:
        """See `Observer.call_measures`."""
        return self._measures

    def collect(self, tally: Tally) -> None:
        """See `Observer.collect`."""
        if self._run is not None and self._is_due():
            self._looked = self._run.step  # on every rank, whatever it has seen

    def digest(self, joined: Joined, run: Run, step: int) -> Digest:
        """See `Observer.digest`."""
        digest = Digest()
        predictions, targets, spreads, _, directions = self._measures
        for measure in (predictions, targets, directions):
            digest.values.update(summarised(measure, joined, self.tag))
        for metric, values in summarised(spreads, joined, self.tag).items():
            whose = metric.rpartition("/")[2]
            digest.values[f"{whose}/sample_spread"] = values
        self._add_classes(digest, joined)
        self._describe(digest, joined, run, step)
        digest.values = {metric: values for metric, values in digest.values.items() if values}
        return digest

    def _add_classes(self, digest: Digest, joined: Joined) -> None:
        for key, columns in joined.columns.items():
            if key.measure == self.tag + ClassMeasure.__name__:
                place, share = key.places[0], accuracy(columns.sums)
                if share is not None:
                    digest.put("output/accuracy", place, share)
                lists = counts(columns.sums)
                for metric, numbers in lists.items():
                    digest.lists.setdefault(metric, {})[place] = numbers
                if lists:
                    pool = self._pools.setdefault(place, ClassPool())
                    pool.add(lists)
                    for metric, value in pool.numbers().items():
                        digest.put(metric, place, value)
                    predicted = lists["class/predicted_count"]
                    digest.put("class/predicted_share", place, max(predicted) / sum(predicted))
                    self._add_confusions(digest, place, confusions(columns.sums))

    def _add_confusions(self, digest: Digest, place: str, matrix: Tensor | None) -> None:
        if matrix is None:
            return
        pool = self._confused.setdefault(place, ConfusionPool())
        pool.add(matrix)
        if (pairs := pool.told()) is not None:
            digest.lists.setdefault("class/confusions", {})[place] = pairs

    def _describe(self, digest: Digest, joined: Joined, run: Run, step: int) -> None:
        """Say in the metadata what is new of the calls: each is described when first seen."""
        history = Probe.of(run.trainer).history
        if history is None:
            return
        known: dict[str, Any] = history.meta.get("losses", {})
        new: dict[str, Any] = {}
        for key, columns in joined.columns.items():
            place = key.places[0]
            if key.measure == self.tag + PredictionMeasure.__name__ and place not in known:
                new[place] = description(place, columns.maxima[0])
                numbers = {
                    metric: value
                    for metric in _START
                    if math.isfinite(value := digest.values.get(metric, {}).get(place, math.nan))
                }
                new[place]["first"] = {"step": step, **numbers}
        if new:
            history.update_meta({"losses": {**known, **new}})

    def headline(self, values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """See `Observer.headline`."""
        return {"output/accuracy_min": extreme(values, "output/accuracy", min)}

    def observer_state(self) -> dict[str, Any]:
        """See `Observer.observer_state`."""
        return {
            "looked": self._looked,
            "pools": {
                place: {"targets": pool.targets, "hits": pool.hits}
                for place, pool in self._pools.items()
            },
            "confused": {place: pool.state() for place, pool in self._confused.items()},
        }

    def load_observer_state(self, state: Mapping[str, Any]) -> None:
        """See `Observer.load_observer_state`."""
        self._looked = int(state.get("looked", -_SPACING))
        self._pools = {}
        for place, counts_of in state.get("pools", {}).items():
            pool = self._pools[place] = ClassPool()
            pool.targets = list(counts_of["targets"])
            pool.hits = list(counts_of["hits"])
        confused = state.get("confused", {})
        self._confused = {place: ConfusionPool.of(kept) for place, kept in confused.items()}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run behind."""
        return {**super().__getstate__(), "_run": None}
