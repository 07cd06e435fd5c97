"""`Observer`: what the probe asks of whoever wants to measure something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from torch import Tensor

from lightning_diag.measure.base import CallMeasure, LossCall
from lightning_diag.measure.tally import Joined, Tally
from lightning_diag.probe.eager import CompiledModels
from lightning_diag.probe.run import OptimizerStep, Run
from lightning_diag.record import Record

if TYPE_CHECKING:
    from lightning_diag.probe.probe import Probe


@dataclass
class Digest:
    """The numbers that one observer adds to a record."""

    values: dict[str, dict[str, float]] = field(default_factory=dict)
    """Numbers by metric and place."""
    dense: dict[str, list[float]] = field(default_factory=dict)
    """Metric to one number for each step since the last record."""
    lists: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """Metric to place to a list of numbers."""

    def put(self, metric: str, place: str, value: float) -> None:
        """Add one number."""
        self.values.setdefault(metric, {})[place] = value


Stage = Literal["epoch", "validation"]
"""What may end between two records: a training epoch, or a validation."""


@dataclass
class Note:
    """The numbers and metadata that one observer adds between records."""

    values: dict[str, dict[str, float]] = field(default_factory=dict)
    """Numbers by metric and place."""
    meta: dict[str, Any] = field(default_factory=dict)
    """Keys of the history's metadata."""


class Observer:
    """One measure or a few, and when to take them.

    What a subclass overrides says what it looks at. While training, everything here is guarded: an
    observer that raises is switched off with one warning.
    """

    reaches_parameters: ClassVar[bool] = False
    """Whether it needs gradients or weights, which some strategies keep out of reach."""
    tag: str = ""
    """Set by the probe: begins the names of this observer's columns, so that none are mixed up."""

    def prepare(self, run: Run) -> None:
        """Get ready for a fit. May raise: training has not begun."""

    def call_measures(self) -> Sequence[CallMeasure]:
        """Return the measures that look at function calls in the forward pass."""
        return ()

    def batch_started(self, batch: Any, batch_idx: int) -> None:
        """Look at a micro-batch of a watched step, on its device and before the forward pass."""

    def validation_batch(self, batch: Any, batch_idx: int) -> None:
        """Look at one of the first batches of a validation, of the first loader if several."""

    def validation_started(self, batch: Any, batch_idx: int, loader: int, step: int) -> None:
        """Look at a watched batch of a validation, of any loader, before the forward pass.

        `step` is the optimizer step that was taken last.
        """

    def validation_loss(self, call: LossCall) -> None:
        """Look at a call of a loss function in such a batch; nothing in it has a gradient.

        Whoever overrides this has such batches watched: see `ValidationWatch`.
        """

    def note(self, stage: Stage) -> Any:
        """Return what this rank has to say of an epoch or a validation that has ended.

        Called on every rank, so nothing here may wait for others. What it returns is pickled; None
        says nothing.
        """

    def noted(self, stage: Stage, of_ranks: Sequence[Any]) -> Note:
        """Turn what the ranks have to say, None left out, into numbers: the same on every rank."""
        return Note()

    def gradients(self, step: OptimizerStep, tally: Tally) -> None:
        """Look at accumulated, unclipped gradients, just before an optimizer's step."""

    def stepped(self, step: OptimizerStep, tally: Tally) -> None:
        """Look at clipped gradients and changed weights, just after an optimizer's step."""

    def skipped(self, step: OptimizerStep, tally: Tally) -> None:
        """Take note of a step that the grad scaler did not take."""

    def batch_ended(self, loss: Tensor | None, stepped: bool) -> None:  # noqa: FBT001
        """Take note of a micro-batch; called for every batch, watched or not: keep it cheap."""

    def let_go(self) -> None:
        """Detach what was attached to the model for a micro-batch. May be called at any time."""

    def collect(self, tally: Tally) -> None:
        """Add what was noted since the last watched step, just before ranks join."""

    def digest(self, joined: Joined, run: Run, step: int) -> Digest:
        """Turn joined columns into the numbers of a record."""
        return Digest()

    def headline(self, values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """Pick the few scalars of a record that loggers show; absent ones as NaN."""
        return {}

    def observer_state(self) -> dict[str, Any]:
        """Return what must survive a checkpoint, in plain values and tensors."""
        return {}

    def load_observer_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `observer_state` returned."""


class WatcherLike(Protocol):
    """What the probe asks of a watcher."""

    every_n_steps: int | None
    max_overhead: float
    startup_seconds: float
    compiled_models: CompiledModels

    @property
    def may_stop(self) -> bool:
        """Whether it may ever want the fit to end; the same on all ranks."""

    @property
    def wants_stop(self) -> bool:
        """Whether it wants the fit to end now."""

    @property
    def remembered(self) -> Mapping[str, Any]:
        """What a checkpoint or an earlier fit left of the probe's counters."""

    @property
    def observers(self) -> Sequence[Observer]:
        """Who measures on its behalf."""

    @property
    def output_folder(self) -> str | None:
        """Where the history goes, if the user said so."""

    def on_open(self, probe: Probe) -> None:
        """Training is about to begin."""

    def on_record(self, record: Record) -> None:
        """A watched step has become numbers."""

    def on_note(self) -> None:
        """The history has new numbers between two records."""

    def on_close(self) -> None:
        """Training has ended or failed."""
