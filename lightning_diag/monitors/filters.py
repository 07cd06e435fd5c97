"""`FilterMonitor`: the filters of the first layer as pictures, and how smooth they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from lightning_diag.measure.base import Columns
from lightning_diag.measure.data import is_measured, leaves
from lightning_diag.measure.filters import (
    FilterMeasure,
    kernels,
    looks_pictured,
    pictures,
    shown,
    templates,
)
from lightning_diag.measure.pictures import Layout, arranged, layout_of
from lightning_diag.measure.tally import Joined, Tally
from lightning_diag.monitors.base import Digest, Monitor, summarised
from lightning_diag.probe.eager import CompiledModels
from lightning_diag.probe.ending import Ending
from lightning_diag.probe.places import named_modules
from lightning_diag.probe.probe import Probe
from lightning_diag.probe.run import Run

_LEAST_STEPS, _SHARE = 4, 8
"""Our choice: four steps between two looks at least, then an eighth of the steps taken: about 70
looks in 100,000 steps, of which the history keeps 16."""
_SAMPLES = 64
"""Our choice: samples that tell whether numbers in a row make pictures."""
_LEAST_KERNEL = 3
"""Our choice: smaller kernels show no shape."""


class _Layer(NamedTuple):
    """A layer that might show pictures."""

    name: str
    """Of its weight."""
    module: nn.Module
    weight: nn.Parameter


class FilterMonitor(Monitor):
    """Keep the filters of the first layer as pictures, with how smooth they are (W9).

    Filters of images that stay noisy were not trained enough, too fast, or without regularisation;
    smooth and varied ones are learned. The layer is the first 2-dimensional convolution with a
    kernel of 3 x 3 or more, or, if it is registered before, the first linear layer that takes as
    many numbers as a picture of the batch has. Pictures have one or three channels; squares without
    channels, also as numbers in a row, count where their neighbours are alike. Shown are its first
    64 filters, averaged down to 32 x 32 pixels; of a convolution with other than 1 or 3 channels
    their mean.

    Args:
        every_n_steps: Optimizer steps between two looks, at least 1; None takes the trainer's
            `log_every_n_steps`. Filters are looked at before the first step, then at watched steps
            that are 4 steps and an eighth of the steps so far apart, and before the last one.
        max_overhead: Share of the training time that watching may cost, above 0.
        startup_seconds: Seconds that watching may cost beyond that share, in all.
        compiled_models: See `Doctor`.

    Logs:
        Nothing to loggers. The history gets ``filter/smoothness``, and shows ``filter/pixels`` of
        16 looks, at most 64 kB each; see docs/history.md. Ranks are averaged. Not observed: weights
        that are spread over ranks, or computed from others (as by weight norm).

    Raises:
        ValueError: If an argument is out of range.

    Cost:
        A copy of at most 65,536 numbers at each look.

    Example:
        >>> FilterMonitor(every_n_steps=10).every_n_steps
        10

    References:
        Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks, 2012,
        figure 3; Moran, Notes on Continuous Stochastic Phenomena, Biometrika 37, 1950.
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
        self._measure = FilterMeasure()
        self._next = 0
        self._forget()

    def _forget(self) -> None:
        self._run: Run | None = None
        self._ending: Ending | None = None
        self._begun = 0
        self._looked = -1
        self._layers: list[_Layer] = []
        self._layouts: dict[int, Layout | None] = {}
        self._held: tuple[str, Columns] | None = None
        self._was_held = False

    def prepare(self, run: Run) -> None:
        """See `Observer.prepare`."""
        self._forget()
        self._run, self._ending, self._begun = run, Ending(run), run.step
        names = {id(place.parameter): place.name for place in run.places}
        self._layers = [
            _Layer(names[id(weight)], module, weight)
            for _, module in named_modules(run.module)
            if isinstance(module, (nn.Conv2d, nn.Linear))
            and isinstance(weight := module._parameters.get("weight"), nn.Parameter)
            and id(weight) in names
        ]

    def batch_started(self, batch: Any, batch_idx: int) -> None:
        """See `Observer.batch_started`."""
        run, ending = self._run, self._ending
        if run is None or ending is None or not self._layers:
            return
        step = run.step
        if step == self._looked:
            return  # another micro-batch
        ending.begin_epoch()  # its first batch may not have been watched
        if step >= self._next or ending.reached(batch_idx, step - self._begun):
            self._looked = step
            found = self._found(batch)
            if found is not None:
                name, filters = found
                self._held = (name, self._measure.observe(filters))

    def _found(self, batch: Any) -> tuple[str, Tensor] | None:
        """Return name and pictures of the first layer that has some."""
        for name, module, weight in self._layers:
            if isinstance(weight, UninitializedParameter) or not _is_plain(weight):
                continue
            if isinstance(module, nn.Linear):
                layout = self._layout(batch, weight.shape[1])
                if layout is not None:
                    return name, templates(weight.detach(), layout)
            elif min(weight.shape[-2:]) >= _LEAST_KERNEL:
                return name, kernels(weight.detach())
        return None

    def _layout(self, batch: Any, inputs: int) -> Layout | None:
        """Return how so many inputs make a picture, as a batch shows when it is first asked."""
        if inputs not in self._layouts:
            found = (layout for _, x in leaves(batch) if (layout := _pictured(x, inputs)))
            self._layouts[inputs] = next(found, None)
        return self._layouts[inputs]

    def collect(self, tally: Tally) -> None:
        """See `Observer.collect`."""
        held, self._held = self._held, None
        self._was_held = held is not None
        self._next = max(self._next, self._looked + max(_LEAST_STEPS, self._looked // _SHARE))
        if held is not None:
            tally.add(self.tag + FilterMeasure.__name__, (held[0],), held[1])

    def digest(self, joined: Joined, run: Run, step: int) -> Digest:
        """See `Observer.digest`."""
        if not self._was_held:
            return Digest()
        values = summarised(self._measure, joined, self.tag)
        smooth = values.get("filter/smoothness", {})
        history = Probe.of(run.trainer).history
        for key, columns in joined.columns.items():
            if key.measure == self.tag + FilterMeasure.__name__ and history is not None:
                (place,) = key.places
                filters = pictures(columns.sums[0], columns.maxima[0])
                content = {**shown(filters, smooth.get(place)), **self._described(place)}
                history.show("filter/pixels", place, step, content)
        return Digest({metric: numbers for metric, numbers in values.items() if numbers})

    def _described(self, name: str) -> dict[str, Any]:
        """Say how many filters the layer has, and how large they are before they are shrunk."""
        weight = next(layer.weight for layer in self._layers if layer.name == name)
        kernel = list(weight.shape[-2:]) if weight.dim() == 4 else None
        return {"filters": weight.shape[0], "kernel": kernel}

    def observer_state(self) -> dict[str, Any]:
        """See `Observer.observer_state`."""
        return {"next": self._next}

    def load_observer_state(self, state: Mapping[str, Any]) -> None:
        """See `Observer.load_observer_state`."""
        self._next = int(state.get("next", 0))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run and its layers behind."""
        left: dict[str, Any] = {"_run": None, "_ending": None, "_layers": [], "_held": None}
        return {**super().__getstate__(), **left}


def _pictured(x: Tensor, inputs: int) -> Layout | None:
    """Return how the samples of a tensor make pictures of so many numbers, None if they do not."""
    if not is_measured(x) or x.dim() < 2 or x[0].numel() != inputs:
        return None
    layout = layout_of(x.shape[1:])
    if layout is None or x.dim() > 3:
        return layout
    return layout if looks_pictured(arranged(x[:_SAMPLES].float(), layout)) else None


def _is_plain(weight: Tensor) -> bool:
    """Whether this rank holds all of a weight, as numbers that can be shown."""
    is_whole = not hasattr(weight, "to_local") and weight.layout is torch.strided
    return is_whole and weight.is_floating_point() and weight.numel() > 0
