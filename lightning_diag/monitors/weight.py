"""`WeightMonitor`: how large weights are, units that are copies, and rows of embeddings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_diag.measure.base import Columns, table
from lightning_diag.measure.embedding import asked_for, headings, likeness, turned
from lightning_diag.measure.spreads import Spreads, norm_of
from lightning_diag.measure.tally import Joined, Tally
from lightning_diag.measure.weight import (
    DuplicateMeasure,
    GradientDuplicateMeasure,
    WeightMeasure,
)
from lightning_diag.monitors.base import Digest, Monitor, summarised
from lightning_diag.probe.eager import CompiledModels
from lightning_diag.probe.run import OptimizerStep, Run

_EVERY = 16
"""Looks between two at embeddings (our choice): what they hold changes slowly."""
_SELDOM = 64
"""Looks between two at all weights (our choice): it is their first values that matter most."""
_FIRST = 4
"""Looks at which copies are sought: layers that begin at zero get their own gradients by then."""
_ALIKE = 0.1
"""Share of copies from which on a layer is looked at again (our choice)."""
_EMBEDDING = "embedding"
_ABSENT = -2.0
"""Below every cosine."""


class WeightMonitor(Monitor):
    """Note how large weights are, which units are copies, and what embeddings do (C5, C6, H7).

    Units with equal weights that get equal gradients stay equal: they are one unit. Rows of an
    embedding count as touched once they have turned, which weight decay alone does not do.

    Args:
        every_n_steps: Optimizer steps between two looks, at least 1; None takes the trainer's
            `log_every_n_steps`. All weights are measured at the first look at an optimizer and
            at every 64th, before its step, embeddings at every sixteenth, copies at the first four.
        max_overhead: Share of the training time that watching may cost, above 0.
        startup_seconds: Seconds that watching may cost beyond that share, in all.
        compiled_models: See `Doctor`.

    Logs:
        Histograms to loggers that show any; the history gets every weight, see
        docs/architecture.md, and histograms of eight of them at every 16th look.

    Cost:
        Three passes over the weights at every 64th look, two more and two over the gradients at the
        first four; an angle for each row of an embedding, at most 65,536, and a few passes over
        2,048 elements of at most eight weights, at every sixteenth.

    Example:
        >>> WeightMonitor(every_n_steps=10).every_n_steps
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
        self._measures = (WeightMeasure(), DuplicateMeasure(), GradientDuplicateMeasure())
        self._spreads = Spreads()
        self._elements: dict[str, int] = {}
        self._turns: dict[int, int] = {}
        self._has_copies = False
        self._headings: dict[str, Tensor] = {}
        self._tables: set[str] = set()

    def prepare(self, run: Run) -> None:
        """See `Observer.prepare`."""
        self._elements = run.weights
        self._spreads.prepare(self._elements, self.tag)
        names = {id(place.parameter): place for place in run.places}
        self._tables = set()
        known, self._headings = self._headings, {}
        with torch.no_grad():
            for module in run.module.modules():
                if not isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
                    continue
                place = names.get(id(module.weight))
                if place is None:
                    continue
                self._tables.add(place.name)
                if place.optimizers and _is_whole(place.parameter):
                    begun = headings(place.parameter)
                    earlier = known.get(place.name)
                    is_same = earlier is not None and earlier.shape == begun.shape
                    self._headings[place.name] = (
                        earlier if is_same and earlier is not None else begun
                    )

    def gradients(self, step: OptimizerStep, tally: Tally) -> None:
        """See `Observer.gradients`."""
        turn = self._turns.get(step.index, 0)
        self._turns[step.index] = turn + 1
        is_due = turn % _EVERY == 0
        self._spreads.observe(step.index, step.names, step.parameters, tally)
        if turn % _SELDOM == 0:
            self._look_at_weights(step, tally)
        if is_due:
            self._look_at_tables(step, tally)
        if turn < _FIRST or (is_due and self._has_copies):
            self._look_for_copies(step, tally)

    def _look_at_weights(self, step: OptimizerStep, tally: Tally) -> None:
        held = dict(zip(step.names, step.parameters, strict=True))
        weights = {name: p.detach() for name, p in held.items() if p.dim() > 1}
        if weights:
            columns = self._measures[0].observe(list(weights.values()))
            tally.add(self.tag + "WeightMeasure", tuple(weights), columns)

    def _look_at_tables(self, step: OptimizerStep, tally: Tally) -> None:
        for name, parameter in zip(step.names, step.parameters, strict=True):
            before = self._headings.get(name)
            if before is None:
                continue
            touched = turned(before, parameter)
            asked = asked_for(parameter.grad, len(parameter))
            alike, spread = likeness(parameter) or (_ABSENT, _ABSENT)
            row = table([(touched, asked, alike, spread)], torch.device("cpu"))
            tally.add(self.tag + _EMBEDDING, (name,), Columns(row.new_zeros(1, 0), row))

    def _look_for_copies(self, step: OptimizerStep, tally: Tally) -> None:
        _, weight, gradient = self._measures
        held = {
            name: parameter
            for name, parameter in zip(step.names, step.parameters, strict=True)
            if parameter.dim() > 1 and name not in self._tables
        }
        if not held:
            return
        columns = weight.observe([parameter.detach() for parameter in held.values()])
        tally.add(self.tag + type(weight).__name__, tuple(held), columns)
        pushed = {
            name: parameter.grad
            for name, parameter in held.items()
            if parameter.grad is not None and parameter.grad.layout is torch.strided
        }
        if pushed:
            columns = gradient.observe(list(pushed.values()))
            tally.add(self.tag + type(gradient).__name__, tuple(pushed), columns)

    def digest(self, joined: Joined, run: Run, step: int) -> Digest:
        """See `Observer.digest`."""
        digest = Digest()
        if not any(key.measure.startswith(self.tag) for key in joined.columns):
            return digest
        for measure in self._measures:
            digest.values.update(summarised(measure, joined, self.tag))
        copies = digest.values.get("weight/duplicate_fraction")
        if copies:
            self._has_copies = max(copies.values()) >= _ALIKE
        for key, columns in joined.columns.items():
            if key.measure == self.tag + _EMBEDDING:
                touched, asked, alike, spread = columns.maxima[0].tolist()
                if run.trainer.current_epoch > 0:
                    digest.put("embedding/touched_fraction", key.places[0], touched)
                digest.put("embedding/batch_fraction", key.places[0], asked)
                if alike > _ABSENT:
                    digest.put("embedding/mean_cosine", key.places[0], alike)
                    digest.put("embedding/norm_spread", key.places[0], spread)
        histograms = self._spreads.digest(joined)
        self._spreads.expect(self._norms(digest, histograms))
        return Digest(
            {metric: values for metric, values in digest.values.items() if values},
            lists={"weight/histogram": histograms} if histograms else {},
        )

    def _norms(self, digest: Digest, histograms: Mapping[str, list[float]]) -> dict[str, float]:
        """Return the norms that are known: of all weights now and then, else of those counted."""
        norms = {name: norm_of(each, self._elements[name]) for name, each in histograms.items()}
        means = digest.values.get("weight/mean", {})
        for name, std in digest.values.get("weight/std", {}).items():
            if name in self._elements:
                norms[name] = math.hypot(means[name], std) * math.sqrt(self._elements[name])
        return norms

    def observer_state(self) -> dict[str, Any]:
        """See `Observer.observer_state`."""
        return {
            "turns": list(self._turns.items()),
            "has_copies": self._has_copies,
            "headings": dict(self._headings),
            "spreads": self._spreads.state(),
        }

    def load_observer_state(self, state: Mapping[str, Any]) -> None:
        """See `Observer.load_observer_state`."""
        self._turns = dict(state.get("turns", ()))
        self._has_copies = bool(state.get("has_copies", False))
        self._headings = dict(state.get("headings", {}))
        self._spreads.load(state.get("spreads", {}))


def _is_whole(parameter: Tensor) -> bool:
    """Whether this rank holds all of a parameter."""
    return not hasattr(parameter, "to_local")
