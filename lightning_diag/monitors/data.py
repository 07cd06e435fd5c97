"""`DataMonitor`: what enters the network, and what batches of both stages look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lightning_diag.measure.base import Call, CallMeasure, Columns
from lightning_diag.measure.data import is_measured, leaf_columns, leaf_numbers, leaves
from lightning_diag.measure.input import (
    FeatureMeasure,
    InputMeasure,
    feature_columns,
    feature_numbers,
)
from lightning_diag.measure.tally import Joined, Tally
from lightning_diag.monitors.base import Digest, Monitor, summarised
from lightning_diag.probe.eager import CompiledModels
from lightning_diag.probe.observer import Note, Stage
from lightning_diag.probe.places import named_modules
from lightning_diag.probe.run import Run

_FIRST_LOOKS = 4
"""Our choice: watched steps at the start of each of which data are looked at."""
_LOOK_EVERY = 16
"""Our choice: after that one watched step in so many, since data change slowly."""
_FEW_SAMPLES = 32
"""Below, each of the first so many watched steps is looked at: batches may hold a single sample."""
_ENOUGH_SAMPLES = 1024
"""Samples after which the statistics of features stand, to three digits."""
_INPUTS = 4
"""Layers that take the data themselves, at most."""
_LEAF = "leaf"
_FEATURES = "FeatureMeasure"
_INPUT = "InputMeasure"


class DataMonitor(Monitor):
    """Log what the first layer is given, and what batches look like (C7).

    The input is that of the first linear, convolution or recurrent layer, and of any other that is
    given a tensor of the batch itself. What comes out of trained parameters, such as embeddings, is
    not data. Batches may be anything that tensors can be found in; integers but bytes are taken for
    indices, and are left out.

    Args:
        every_n_steps: Optimizer steps between two looks, at least 1; None takes the trainer's
            `log_every_n_steps`.
        max_overhead: Share of the training time that watching may cost, above 0.
        startup_seconds: Seconds that watching may cost beyond that share, in all.
        compiled_models: See `Doctor`.

    Logs:
        Nothing to loggers. The history gets ``input/*`` by layer, ``data/*`` by tensor of the batch
        in training and validation, and ``data/wait_fraction``; see docs/architecture.md.

    Raises:
        ValueError: If an argument is out of range.

    Cost:
        On the first four watched steps and every sixteenth one: some passes over at most 65,536
        elements of each tensor of the batch, and of the input as long as few samples are known.

    Example:
        >>> DataMonitor().observers[0].__class__.__name__
        'DataMonitor'
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
            InputMeasure(self._is_input, self._looks_now),
            FeatureMeasure(self._lacks_samples, self._looks_now),
        )
        self._recurrent: tuple[str, int] | None = None
        self._is_normed: set[str] = set()
        self._forget()

    def _forget(self) -> None:
        self._looks = 0
        self._is_looking = False
        self._features: dict[str, tuple[Tensor, Tensor]] = {}
        self._numbers: dict[str, dict[str, float]] = {}
        self._held: dict[str, Columns] = {}
        self._noted: list[tuple[str, str, Columns]] = []
        self._begin_batch([])

    def prepare(self, run: Run) -> None:
        """See `Observer.prepare`."""
        self._held, self._noted = {}, []
        self._begin_batch([])
        modules = [(path, module) for path, module in named_modules(run.module) if path]
        self._recurrent = _first_recurrent(modules)
        self._is_normed = _followed_by_norm(modules)

    def call_measures(self) -> Sequence[CallMeasure]:
        """See `Observer.call_measures`."""
        return self._measures

    # -- a micro-batch ---------------------------------------------------------------------------

    def _begin_batch(self, found: Sequence[tuple[str, Tensor]]) -> None:
        tensors = [x for _, x in found]
        self._elements = sum(x.numel() for x in tensors)
        self._storages = {s for x in tensors if (s := _storage(x)) is not None}
        self._begun = False
        self._chosen: list[str] = []

    def _is_due(self) -> bool:
        """Whether this watched step is one to look at."""
        if self._looks < _FIRST_LOOKS or self._looks % _LOOK_EVERY == 0:
            return True
        samples = min((float(sums[0]) for sums, _ in self._features.values()), default=0.0)
        return samples < _FEW_SAMPLES and self._looks < _FEW_SAMPLES and bool(self._features)

    def batch_started(self, batch: Any, batch_idx: int) -> None:
        """See `Observer.batch_started`."""
        self._is_looking = self._is_due()
        if not self._is_looking:
            return
        found = leaves(batch)
        self._begin_batch(found)
        measured = [(name, x) for name, x in found if is_measured(x)]
        if self._recurrent is not None:
            self._see_recurrent(*self._recurrent, [x for _, x in measured])
        self._noted += [(_LEAF, f"train/{name}", leaf_columns(x)) for name, x in measured]

    def _see_recurrent(self, path: str, size: int, tensors: Sequence[Tensor]) -> None:
        """Take the input of a network's first recurrent layer, whose call is not to be seen."""
        x = next((x for x in tensors if x.dim() == 3 and x.shape[-1] == size), None)
        if x is None or not x.is_floating_point():
            return
        self._begun = True
        self._chosen.append(path)
        call = Call(path, "rnn", "layer", x.dim() - 1, x)
        columns = InputMeasure(lambda _: True).before(call)
        if columns is not None:
            self._noted.append((_INPUT, path, columns))
        if self._lacks_samples(call):
            self._noted.append((_FEATURES, path, feature_columns(x, -1)))

    def _looks_now(self) -> bool:
        return self._is_looking

    def _is_input(self, call: Call) -> bool:
        """Whether a call is given data: the first one, and those that read the batch itself."""
        is_first, self._begun = not self._begun, True
        if call.input.requires_grad or len(self._chosen) >= _INPUTS:
            return False
        storage = _storage(call.input)
        if storage in self._storages:
            self._storages.discard(storage)  # two layers may share their input
        elif not is_first or 0 < self._elements < call.input.numel():
            return False  # what an embedding made of indices is larger than they are
        self._chosen.append(call.place)
        return True

    def _lacks_samples(self, call: Call) -> bool:
        """Whether to look at the features of an input as well."""
        if call.place not in self._chosen:
            return False
        known = self._features.get(call.place)
        return known is None or float(known[0][0]) < _ENOUGH_SAMPLES

    # -- numbers ---------------------------------------------------------------------------------

    def collect(self, tally: Tally) -> None:
        """See `Observer.collect`."""
        self._looks += 1
        noted, self._noted = self._noted, []
        for measure, place, columns in noted:
            tally.add(self.tag + measure, (place,), columns)

    def digest(self, joined: Joined, run: Run, step: int) -> Digest:
        """See `Observer.digest`."""
        digest = Digest(summarised(self._measures[0], joined, self.tag))
        for key, columns in joined.columns.items():
            if key.measure == self.tag + _FEATURES:
                self._pool(key.places[0], columns)
            elif key.measure == self.tag + _LEAF:
                found = leaf_numbers(columns.sums[0].tolist(), columns.maxima[0].tolist())
                for output, value in found.items():
                    digest.put(f"data/{output}", key.places[0], value)
        for place in digest.values.get("input/nonfinite_count", {}):
            for output, value in self._known_of(place).items():
                digest.put(f"input/{output}", place, value)
            path = place.rpartition("/")[0] or place
            digest.put("input/normalised", place, float(path in self._is_normed))
        return digest

    def _known_of(self, place: str) -> dict[str, float]:
        """Return the numbers of all samples of an input so far."""
        if place not in self._numbers and place in self._features:
            self._numbers[place] = feature_numbers(*self._features[place])
        return self._numbers.get(place, {})

    def _pool(self, place: str, columns: Columns) -> None:
        """Take in samples of an input: a single batch may be a single sample."""
        sums, maxima = columns.sums[0], columns.maxima[0]
        known = self._features.get(place)
        if known is not None and known[0].shape == sums.shape:
            sums, maxima = known[0] + sums, torch.maximum(known[1], maxima)
        self._features[place] = (sums.clone(), maxima.clone())
        self._numbers.pop(place, None)

    # -- validation ------------------------------------------------------------------------------

    def validation_batch(self, batch: Any, batch_idx: int) -> None:
        """See `Observer.validation_batch`."""
        if batch_idx == 0:
            self._held = {}
        for name, x in leaves(batch):
            if not is_measured(x):
                continue
            columns, known = leaf_columns(x), self._held.get(name)
            if known is not None:
                maxima = torch.maximum(known.maxima, columns.maxima)
                columns = Columns(known.sums + columns.sums, maxima)
            self._held[name] = columns

    def note(self, stage: Stage) -> Any:
        """See `Observer.note`."""
        if stage != "validation":
            return None
        held, self._held = self._held, {}
        return {name: (c.sums[0].tolist(), c.maxima[0].tolist()) for name, c in held.items()}

    def noted(self, stage: Stage, of_ranks: Sequence[Any]) -> Note:
        """See `Observer.noted`."""
        note = Note()
        for name in dict.fromkeys(name for rank in of_ranks for name in rank):
            ranks = [rank[name] for rank in of_ranks if name in rank]
            sums = [sum(values) for values in zip(*(sums for sums, _ in ranks), strict=True)]
            maxima = [max(values) for values in zip(*(maxima for _, maxima in ranks), strict=True)]
            for output, value in leaf_numbers(sums, maxima).items():
                note.values.setdefault(f"data/{output}", {})[f"validation/{name}"] = value
        return note

    # -- checkpoints -----------------------------------------------------------------------------

    def observer_state(self) -> dict[str, Any]:
        """See `Observer.observer_state`."""
        return {"looks": self._looks, "features": {k: list(v) for k, v in self._features.items()}}

    def load_observer_state(self, state: Mapping[str, Any]) -> None:
        """See `Observer.load_observer_state`."""
        self._forget()
        self._looks = int(state.get("looks", 0))
        for place, (sums, maxima) in state.get("features", {}).items():
            self._features[place] = (sums, maxima)

    def __getstate__(self) -> dict[str, Any]:
        """Leave tensors and modules behind."""
        kept = super().__getstate__()
        return {**kept, "_held": {}, "_noted": [], "_storages": set()}


def _storage(x: Tensor) -> int | None:
    """Return where the memory of a tensor begins, None where that is not to be told."""
    try:
        return x.untyped_storage().data_ptr() or None
    except Exception:  # noqa: BLE001  # sparse, functional and fake tensors, and subclasses
        return None


def _first_recurrent(modules: Sequence[tuple[str, nn.Module]]) -> tuple[str, int] | None:
    """Return path and input size of a recurrent layer that no layer with parameters precedes."""
    for path, module in modules:
        if next(module.parameters(recurse=False), None) is not None:
            size = getattr(module, "input_size", None)
            return (path, int(size)) if isinstance(module, nn.RNNBase) and size else None
    return None


def _followed_by_norm(modules: Sequence[tuple[str, nn.Module]]) -> set[str]:
    """Return the paths of modules behind which a norm layer is registered."""
    single = [(path, m) for path, m in modules if next(m.children(), None) is None]
    return {path for (path, _), (_, after) in pairwise(single) if "Norm" in type(after).__name__}
