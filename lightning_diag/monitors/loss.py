"""`LossMonitor`: the true loss of every step, its noise and spikes, and the learning rates."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_diag.measure.loss import SpikeCounter, trend_noise
from lightning_diag.measure.loss_ring import LossRing
from lightning_diag.measure.tally import Joined, Tally
from lightning_diag.monitors.base import Digest, Monitor, extreme
from lightning_diag.probe.eager import CompiledModels
from lightning_diag.probe.run import OptimizerStep, Run

_LOSS = "loss"
_SLOTS = 256
"""Steps whose losses are kept between two looks; of longer gaps the newest are."""


class LossMonitor(Monitor):
    """Log the loss of every optimizer step, whatever the accumulation (W10, W12, P10).

    Lightning divides the loss that callbacks see by the accumulation factor, also in the last,
    shorter window of an epoch; this is the loss before that, averaged over the micro-batches of the
    step and over ranks. With manual optimisation it is what `training_step` returns; if that is
    nothing, the loss is not observed.

    Args:
        every_n_steps: Optimizer steps between two looks, at least 1; None takes the trainer's
            `log_every_n_steps`. Losses of the steps between are kept on the device till then.
        window: Losses that noise and spikes are judged by, at least 8.
        max_overhead: Share of the training time that watching may cost, above 0.
        startup_seconds: Seconds that watching may cost beyond that share, in all.
        compiled_models: See `Doctor`.

    Logs:
        ``diag/loss/train``: mean since the last record.
        ``diag/loss/noise``: deviation from the local trend over the loss, 0 or more.
        ``diag/loss/spike_count``: steps since the last record far above the ones before.
        ``diag/lr/value``: learning rate of the first parameter group.

    Raises:
        ValueError: If an argument is out of range.

    Cost:
        One reference a step; nothing is copied until a watched step.

    Example:
        >>> LossMonitor(window=32).window
        32
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        *,
        window: int = 64,
        max_overhead: float = 0.01,
        startup_seconds: float = 5.0,
        compiled_models: CompiledModels = "eager",
    ) -> None:
        super().__init__(
            every_n_steps,
            max_overhead=max_overhead,
            startup_seconds=startup_seconds,
            compiled_models=compiled_models,
            identity={"window": window},
        )
        if window < 8:
            message = f"`window` must be at least 8 losses, got {window}."
            raise ValueError(message)
        self.window = window
        self._spikes = SpikeCounter(window)
        self._losses = LossRing(_SLOTS)
        self._rates: dict[str, float] = {}
        self._noted: deque[dict[str, float]] = deque()
        self._mean = math.nan
        self._run: Run | None = None

    def prepare(self, run: Run) -> None:
        """See `Observer.prepare`."""
        self._run = run
        self._losses, self._rates = LossRing(_SLOTS), {}
        self._noted.clear()

    def batch_ended(self, loss: Tensor | None, stepped: bool) -> None:  # noqa: FBT001
        """See `Observer.batch_ended`."""
        if loss is not None:
            self._losses.add(loss)
        if stepped:
            self._losses.end_step()

    def gradients(self, step: OptimizerStep, tally: Tally) -> None:
        """See `Observer.gradients`."""
        if self._run is not None:
            now = self._run.groups()  # schedulers step before the batch ends
            if step.label:  # as other optimizers may do before this one
                now = {**now, **self._rates, **self._run.groups(step.index)}
            self._rates = now

    def collect(self, tally: Tally) -> None:
        """See `Observer.collect`."""
        # where numbers are still on their way, the next step begins before this one's digest
        self._noted.append(self._rates)
        self._rates = {}
        taken = self._losses.take()
        if taken is not None:
            tally.add(self.tag + _LOSS, ("",), taken)

    def digest(self, joined: Joined, run: Run, step: int) -> Digest:
        """See `Observer.digest`."""
        digest = Digest()
        self._mean = math.nan
        for name, rate in self._noted.popleft().items():
            if not math.isnan(rate):
                digest.put("lr/value", name, rate)
        for key, columns in joined.columns.items():
            if key.measure == self.tag + _LOSS:
                sums, counts = columns.sums[0, :_SLOTS], columns.sums[0, _SLOTS:]
                first = int(counts.nonzero()[0])
                losses: list[float] = (sums[first:] / counts[first:]).tolist()
                digest.dense["loss/train"] = losses
                spikes = sum(self._spikes.is_spike(loss) for loss in losses)
                digest.put("loss/spike_count", "", float(spikes))
                noise = trend_noise(self._spikes.recent)
                if noise is not None:
                    digest.put("loss/noise", "", noise)
                seen = [loss for loss in losses if not math.isnan(loss)]
                self._mean = math.fsum(seen) / len(seen) if seen else math.nan
        return digest

    def headline(self, values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """See `Observer.headline`."""
        rates = values.get("lr/value", {})
        return {
            "loss/train": self._mean,
            "loss/noise": extreme(values, "loss/noise", max),
            "loss/spike_count": extreme(values, "loss/spike_count", max),
            "lr/value": next(iter(rates.values()), math.nan),
        }

    def observer_state(self) -> dict[str, Any]:
        """See `Observer.observer_state`."""
        return {"recent": list(self._spikes.recent)}

    def load_observer_state(self, state: Mapping[str, Any]) -> None:
        """See `Observer.load_observer_state`."""
        self._spikes = SpikeCounter(self.window)
        self._spikes.recent.extend(state.get("recent", ()))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run and its tensors behind."""
        return {**super().__getstate__(), "_run": None, "_losses": LossRing(_SLOTS)}
