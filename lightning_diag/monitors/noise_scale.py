"""`GradientNoiseScale`: from which batch size on more samples help less (W15)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from lightning_diag.batch_size import BatchSizeAdvice, suggest_batch_size
from lightning_diag.measure.base import CallMeasure
from lightning_diag.measure.moments import Scalar, added, wide
from lightning_diag.measure.noise import batch_size
from lightning_diag.measure.noise_estimate import Estimate, NoiseScale, noise_scale_of
from lightning_diag.measure.noise_scale import NoiseScaleMeasure, SplitMeasure, spread_square_sum
from lightning_diag.measure.split import PartWatch, can_split
from lightning_diag.measure.tally import Joined, Tally
from lightning_diag.monitors.base import Digest, Monitor, summarised
from lightning_diag.probe.backward import BackwardTap
from lightning_diag.probe.eager import CompiledModels
from lightning_diag.probe.places import named_modules
from lightning_diag.probe.run import OptimizerStep, Run

_LAYERS = 8
"""Our choice: layers whose gradients are split by samples, evenly spread over depth."""


class GradientNoiseScale(Monitor):
    """Log the simple noise scale: the batch size from which on more samples help less (W15).

    It compares gradients of few samples with gradients of many that training computes anyway:
    micro-batches with the step that they make up, and each rank's gradient, before DDP averages
    it, with the average. With neither, as with manual optimisation, it splits the gradients of at
    most 8 linear and convolution layers by samples as they come back, on a spread of their units.
    Numerator and denominator are averaged over the newest `window` estimates, and divided then,
    with a 95 % interval.

    Not observed: under FSDP and DeepSpeed; with batches in which no tensor tells the number of
    samples; for parameters that several backward passes of one batch reach. Where batches are
    split, also batches of one sample, layers that are called more than once or whose input does not
    count samples first, and, with reentrant activation checkpointing, what that wraps. Samples
    that batch norm mixes count as they come back from it.

    Args:
        every_n_steps: Optimizer steps between two looks, at least 1; None takes the trainer's
            `log_every_n_steps`.
        window: Estimates that are averaged, at least 8. More are steadier and older.
        max_overhead: Share of the training time that watching may cost, above 0.
        startup_seconds: Seconds that watching may cost beyond that share, in all.
        compiled_models: See `Doctor`.

    Raises:
        ValueError: If an argument is out of range.

    Logs:
        ``diag/noise_scale/samples``: the noise scale, in samples.
        ``diag/noise_scale/batch_size``: samples of an optimizer step, to compare it with.
        The history gets the interval and the estimates, see docs/architecture.md.

    Cost:
        On a watched step one pass over the gradients for each micro-batch and one more, of at most
        a million elements of each parameter; where batches are split, products of at most 64 x 64
        units or 8 x 8 channels of 8 layers. See docs/learning-rate/batch-size.md.

    Example:
        >>> GradientNoiseScale(every_n_steps=10).advice
        {}

    References:
        McCandlish et al., An Empirical Model of Large-Batch Training, 2018, arXiv:1812.06162.

    See Also:
        `suggest_batch_size`: what a noise scale says of a batch size.
    """

    reaches_parameters: ClassVar[bool] = True

    def __init__(
        self,
        every_n_steps: int | None = None,
        *,
        window: int = 64,
        max_overhead: float = 0.01,
        startup_seconds: float = 5.0,
        compiled_models: CompiledModels = "eager",
    ) -> None:
        if window < 8:
            raise ValueError(f"`window` must be at least 8 estimates, got {window}.")
        super().__init__(
            every_n_steps,
            max_overhead=max_overhead,
            startup_seconds=startup_seconds,
            compiled_models=compiled_models,
            identity={"every_n_steps": every_n_steps, "window": window},
        )
        self.window = window
        self._measure = NoiseScaleMeasure()
        self._split_measure = SplitMeasure()
        self._tap, self._watch = self._taps()
        self._estimates: dict[str, deque[Estimate]] = {}
        self._batch_sizes: dict[str, int] = {}
        self._run: Run | None = None
        self._factor = 1

    def _taps(self) -> tuple[BackwardTap, PartWatch]:
        return BackwardTap(spread_square_sum), PartWatch(due=lambda: not self._has_groups)

    @property
    def noise_scales(self) -> dict[str, NoiseScale]:
        """The newest noise scale of each optimizer, by its place: empty if it is the only one."""
        known = {place: noise_scale_of(list(seen)) for place, seen in self._estimates.items()}
        return {place: scale for place, scale in known.items() if scale is not None}

    @property
    def advice(self) -> dict[str, BatchSizeAdvice]:
        """What the noise scale says of the batch size, for each optimizer as above."""
        return {
            place: suggest_batch_size(
                scale.samples, self._batch_sizes[place], low=scale.low, high=scale.high
            )
            for place, scale in self.noise_scales.items()
            if self._batch_sizes.get(place)
        }

    def prepare(self, run: Run) -> None:
        """See `Observer.prepare`."""
        self._run = run
        self._tap.passes.clear()
        found = [(path, one) for path, one in named_modules(run.module) if can_split(one)]
        self._watch.layers = dict(found[:: max(1, math.ceil(len(found) / _LAYERS))])

    def call_measures(self) -> Sequence[CallMeasure]:
        """See `Observer.call_measures`."""
        return (self._watch,)

    @property
    def _has_groups(self) -> bool:
        """Whether a step is made of several gradients, of which each can be seen."""
        run = self._run
        return run is not None and run.automatic and (run.ranks > 1 or self._factor > 1)

    def batch_started(self, batch: Any, batch_idx: int) -> None:
        """See `Observer.batch_started`."""
        if self._run is None:
            return
        self._factor = int(self._run.trainer.accumulate_grad_batches)
        if self._run.automatic and batch_idx % self._factor == 0:
            self._tap.passes.clear()  # Lightning drops what an epoch left unfinished
        samples = batch_size(batch)
        places = self._run.places if self._has_groups else []
        self._tap.begin(samples, [p.parameter for p in places if _is_seen(p.parameter)])
        self._watch.begin(samples)

    def let_go(self) -> None:
        """See `Observer.let_go`."""
        self._tap.let_go()

    def gradients(self, step: OptimizerStep, tally: Tally) -> None:
        """See `Observer.gradients`."""
        for error in (self._tap.error, self._watch.error):
            if error is not None:
                raise error
        if self._has_groups:
            self._add_groups(step, tally)
        else:
            self._add_parts(step, tally)

    def _add_groups(self, step: OptimizerStep, tally: Tally) -> None:
        """Compare the gradients of micro-batches and ranks with that of the step."""
        parameters = [p for p in step.parameters if p.grad is not None and _is_seen(p)]
        squares = [(one.total(parameters), one.samples) for one in self._tap.passes]
        groups = [(square, samples) for square, samples in squares if square is not None]
        if not groups or not all(samples for _, samples in groups):
            return
        total = added([spread_square_sum(p.grad) for p in parameters if p.grad is not None])
        factor = float(self._factor) ** 2  # Lightning divides the loss of each by it
        unscaled = self._unscaled(parameters[0].device)
        small = [added([square * factor / unscaled]) for square, _ in groups]
        total = total * factor / (unscaled if step.scale is not None else 1.0)
        sizes = [float(samples) for _, samples in groups]
        columns = self._measure.observe(small, sizes, total, device=parameters[0].device)
        tally.add(self.tag + "NoiseScaleMeasure", (step.label,), columns)

    def _add_parts(self, step: OptimizerStep, tally: Tally) -> None:
        """Compare the gradients of parts of the last micro-batch with that of all of them."""
        found = [self._watch.squares.get(id(p)) for p in step.parameters]
        known = [squares for squares in found if squares is not None]
        samples = sum(one.samples for one in self._tap.passes)
        if not known or not samples:
            return
        device = known[0].device
        parts = len(known[0]) - 1
        size = self._watch.samples // parts
        # the loss is the mean over all samples of the batch, and each part has its own mean
        factor = (self._watch.samples / size) ** 2 / self._unscaled(device)
        sums = torch.stack([squares.to(device) for squares in known]).sum(0) * factor
        *small, total = sums.tolist() if device.type == "cpu" else sums.unbind(0)
        columns = self._split_measure.observe(
            small, [float(size)] * parts, total, device=device, samples=float(samples)
        )
        tally.add(self.tag + "SplitMeasure", (step.label,), columns)

    def _unscaled(self, device: torch.device) -> Scalar:
        """Return what squares of gradients still carry of the loss scale."""
        scale = None if self._run is None else self._run.loss_scale()
        return 1.0 if scale is None else scale.to(device=device, dtype=wide(device)) ** 2

    def collect(self, tally: Tally) -> None:
        """See `Observer.collect`."""
        self._tap.passes.clear()

    def digest(self, joined: Joined, run: Run, step: int) -> Digest:
        """See `Observer.digest`."""
        digest = Digest(summarised(self._measure, joined, self.tag))
        for metric, values in summarised(self._split_measure, joined, self.tag).items():
            digest.values.setdefault(metric, {}).update(values)
        signals = digest.values.get("noise_scale/signal", {})
        for place, trace in digest.values.get("noise_scale/trace", {}).items():
            known = self._estimates.setdefault(place, deque(maxlen=self.window))
            known.append(Estimate(trace, signals[place]))
            self._batch_sizes[place] = round(digest.values["noise_scale/batch_size"][place])
            self._put(digest, place, noise_scale_of(list(known)))
        return Digest({metric: values for metric, values in digest.values.items() if values})

    def _put(self, digest: Digest, place: str, scale: NoiseScale | None) -> None:
        if scale is None:
            return
        if scale.samples is not None:
            digest.put("noise_scale/samples", place, scale.samples)
        digest.put("noise_scale/low", place, scale.low)
        if scale.high < math.inf:
            digest.put("noise_scale/high", place, scale.high)

    def headline(self, values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """See `Observer.headline`."""
        names = ("noise_scale/samples", "noise_scale/batch_size")
        return {name: values.get(name, {}).get("", math.nan) for name in names}

    def observer_state(self) -> dict[str, Any]:
        """See `Observer.observer_state`."""
        return {
            "estimates": {
                place: [tuple(estimate) for estimate in known]
                for place, known in self._estimates.items()
            },
            "batch_sizes": dict(self._batch_sizes),
        }

    def load_observer_state(self, state: Mapping[str, Any]) -> None:
        """See `Observer.load_observer_state`."""
        self._estimates = {
            place: deque((Estimate(*pair) for pair in known), maxlen=self.window)
            for place, known in state.get("estimates", {}).items()
        }
        self._batch_sizes = dict(state.get("batch_sizes", {}))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run, its gradients and what hangs on its parameters behind."""
        state = {**super().__getstate__(), "_run": None}
        del state["_tap"], state["_watch"]
        return state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Make what was left behind anew."""
        self.__dict__.update(state)
        self._tap, self._watch = self._taps()


def _is_seen(parameter: nn.Parameter) -> bool:
    """Whether the whole gradient of a parameter passes by on this rank."""
    if isinstance(parameter, UninitializedParameter) or hasattr(parameter, "to_local"):
        return False
    return parameter.requires_grad
