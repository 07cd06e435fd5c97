"""`ValidationMonitor`: the metrics that the user logs, in validation and in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_diag.measure.base import Columns
from lightning_diag.measure.logged import better, loss_among
from lightning_diag.measure.moments import Scalar
from lightning_diag.measure.tally import Joined, Tally
from lightning_diag.monitors.base import Digest, Monitor
from lightning_diag.probe.logged import logged_in_epoch, logged_in_step, logged_in_validation
from lightning_diag.probe.observer import Note, Stage
from lightning_diag.probe.run import Run

_VALIDATION = 256
"""Metrics of a validation that are kept (our choice): some log one for each class."""
_TRAINING = 32
"""Metrics of a training step that are kept: each costs some microseconds."""
_LOGGED = "logged"


class ValidationMonitor(Monitor):
    """Keep the metrics that `self.log` was given, in validation and in training.

    Of a validation each metric counts once, as the callbacks of Lightning see it. Ranks that differ
    are averaged, and a metric that only some of them log is the average of those. The sanity check
    is left out. A number that training logs for each step is taken at watched steps, and one that
    it logs for each epoch when that has ended.

    Args:
        every_n_steps: Optimizer steps between two looks at what training logs, at least 1; None
            takes the trainer's `log_every_n_steps`.
        max_overhead: Share of the training time that watching may cost, above 0.
        startup_seconds: Seconds that watching may cost beyond that share, in all.
        compiled_models: See `Doctor`.

    Logs:
        Nothing to loggers, which have the numbers already. The history gets ``validation/<name>``
        and ``metric/<name>``.

    Raises:
        ValueError: If an argument is out of range.

    Cost:
        One short exchange between ranks for each validation and epoch; a few microseconds for each
        logged number on a watched step.

    Example:
        >>> ValidationMonitor().observers[0].__class__.__name__
        'ValidationMonitor'
    """

    _run: Run | None = None

    def prepare(self, run: Run) -> None:
        """See `Observer.prepare`."""
        self._run = run

    def collect(self, tally: Tally) -> None:
        """See `Observer.collect`."""
        if self._run is None:
            return
        found = logged_in_step(self._run.trainer)[:_TRAINING]
        # ranks may log different names: then each stands on its own
        groups = [found] if self._run.ranks == 1 else [[one] for one in found]
        for group in groups:
            if group:
                rows = [[_number(value), 1.0] for _, value, _ in group]
                places = tuple(name for name, _, _ in group)
                tally.add(self.tag + _LOGGED, places, Columns.of(self._run.device, rows))

    def digest(self, joined: Joined, run: Run, step: int) -> Digest:
        """See `Observer.digest`."""
        digest = Digest()
        for key, columns in joined.columns.items():
            if key.measure == self.tag + _LOGGED:
                for name, (total, count) in zip(key.places, columns.sums.tolist(), strict=True):
                    digest.put(f"metric/{name}", "", total / count)
        return digest

    def note(self, stage: Stage) -> Any:
        """See `Observer.note`."""
        if self._run is None:
            return None
        read = logged_in_validation if stage == "validation" else logged_in_epoch
        found = read(self._run.trainer)[:_VALIDATION]
        return {name: (float(value), is_higher) for name, value, is_higher in found}

    def noted(self, stage: Stage, of_ranks: Sequence[Any]) -> Note:
        """See `Observer.noted`."""
        kind = "validation" if stage == "validation" else "metric"
        note, ends = Note(), {}
        for name in dict.fromkeys(name for rank in of_ranks for name in rank):
            values = [rank[name] for rank in of_ranks if name in rank]
            mean = sum(value for value, _ in values) / len(values)
            note.values[f"{kind}/{name}"] = {"": mean}
            ends[name] = better(name, values[0][1])
        if stage == "validation" and ends:
            about: dict[str, Any] = {"metrics": ends}
            loss = loss_among(list(ends))
            if loss is not None:
                about["loss"] = loss
            note.meta["validation"] = about
        return note

    def __getstate__(self) -> dict[str, Any]:
        """Leave the trainer behind."""
        return {**super().__getstate__(), "_run": None}


def _number(value: Tensor) -> Scalar:
    """Return a number as a float where that does not wait for a device."""
    return value.item() if value.device.type == "cpu" else value
