"""`LongEpoch`: one pass over the data takes days."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.checks.base import Check
from lightning_diag.checks.pace import estimate_of, in_time
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved


@dataclass(frozen=True)
class LongEpoch(Check):
    """One pass over the training data that takes days.

    What it sees:
        The fastest of a few training steps on a copy (forward, backward and optimizer, on the
        device that the module is on), times the batches of an epoch, without validation and
        without waiting for data. `suspect` where a trainer is about to train it; without one it is
        a note, since the module may yet be moved to a faster device.

    Why it matters:
        What happens once an epoch, as validation, checkpoints, schedules and early stopping do by
        default, comes too late or never: days are lost if anything ends the run.

    What to do:
        Train on a faster device or on several, with a lower precision; else validate, save and
        schedule by steps, and limit the batches of an epoch.

    References:
        PyTorch Lightning documentation, Trainer: `limit_train_batches`, `val_check_interval`.
    """

    code: ClassVar[str] = "long-epoch"
    family: ClassVar[str] = "cost"
    timed: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("trial",)

    hours: float = 48.0
    """Hours of an epoch from which on it counts, at least 0. Our choice: two nights."""

    def __post_init__(self) -> None:
        self._require("hours", least=0.0, unit="hours")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        estimate = estimate_of(subject)
        if estimate.batches is None:
            return self.not_observed("the training data do not know their length")
        seconds = estimate.batches * estimate.fastest_seconds
        if seconds < 3600 * self.hours:
            return []
        return self.found(
            "note" if subject.trainer is None else "suspect",
            f"An epoch takes {in_time(seconds)} at least: {estimate.batches:,} batches of "
            f"{in_time(estimate.fastest_seconds)} on {estimate.device}, the fastest of "
            f"{estimate.steps} steps on a copy (threshold {self.hours:g} h).",
            "Train on a faster device; else set limit_train_batches, and val_check_interval of "
            "`lightning.pytorch.Trainer`, and every_n_train_steps of "
            "`lightning.pytorch.callbacks.ModelCheckpoint`.",
            value=seconds / 3600,
            threshold=self.hours,
            window=estimate.steps,
        )
