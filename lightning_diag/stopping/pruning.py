"""`OptunaPruning`: ends a trial of a search when its training is broken, or not worth going on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, Protocol, runtime_checkable

from lightning_diag._compat import Callback, MisconfigurationException
from lightning_diag.finding import SEVERITIES, Finding, Severity

DEFAULT_CODES = ("diverging-loss", "non-finite")
"""Trainings that are over (W12)."""


@runtime_checkable
class Finder(Protocol):
    """What is asked of `Doctor`, which this module must not import."""

    @property
    def findings(self) -> list[Finding]:
        """What has been found so far, the same on every rank."""

    @property
    def rules(self) -> Sequence[Any]:
        """What it judges by."""


class OptunaPruning(Callback):
    """Prune a trial of Optuna's by what `Doctor` finds, and by Optuna's own pruner.

    A trial whose loss has grown to 3 times its first value, or is no longer finite, is over as
    soon as `Doctor` says so: within some 50 steps, where a pruner that compares trials waits for
    validations of several. It raises `optuna.TrialPruned` from `Trainer.fit`, after the batch or
    the validation in which that became known, on all ranks at the same place: let it through, and
    `study.optimize` counts the trial as pruned. The trial keeps the reason in its user attributes
    ``pruned_by`` (code of the finding, or ``pruner``), ``pruned_because`` and ``pruned_at_step``.

    Args:
        trial: The trial of this objective; None on ranks other than zero, which report nothing.
            `TorchDistributedTrial` of optuna-integration is known, too.
        monitor: Logged metric to report after each validation, for the study's pruner to judge;
            the steps of these reports count validations. None reports nothing.
        prune_on: Codes of findings that prune, or severities; None takes ``diverging-loss`` and
            ``non-finite``; an empty list asks the study's pruner alone.
        severity: What a finding named by its code must be at least.

    Raises:
        TypeError: If `trial` is none of Optuna's.
        ValueError: If `severity` is unknown, or there is nothing to prune by.

    Example:
        >>> OptunaPruning(None, "val_loss").prune_on
        ['diverging-loss', 'non-finite']

    See Also:
        docs/learning-rate/search.md: a search with it.
    """

    def __init__(
        self,
        trial: Any,
        monitor: str | None = None,
        *,
        prune_on: list[str] | None = None,
        severity: Severity = "bad",
    ) -> None:
        super().__init__()
        if trial is not None and not all(
            hasattr(trial, name) for name in ("report", "should_prune", "set_user_attr")
        ):
            raise TypeError(
                f"`trial` must be a trial of Optuna's or None, got {type(trial).__name__}: make "
                "this callback in the objective, with the trial that Optuna hands it."
            )
        if severity not in SEVERITIES:
            raise ValueError(f"`severity` must be one of {SEVERITIES}, got {severity!r}.")
        self.prune_on = list(DEFAULT_CODES if prune_on is None else prune_on)
        if not self.prune_on and monitor is None:
            raise ValueError(
                "`prune_on` must name findings, or `monitor` a metric, got neither: without them "
                "nothing is pruned."
            )
        self.trial = trial
        self.monitor = monitor
        self.severity: Severity = severity
        self._reports = 0
        self._doctor: Finder | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse what cannot work, before training."""
        if stage != "fit":
            return
        if trainer.is_global_zero and self.trial is None:
            raise MisconfigurationException(
                "`trial` must be Optuna's trial on rank zero, got None: only other ranks go "
                "without."
            )
        launcher = type(trainer.strategy.launcher)
        if any("MultiProcessing" in cls.__name__ for cls in launcher.__mro__):
            raise MisconfigurationException(
                f"OptunaPruning cannot reach a trial from the processes that {launcher.__name__} "
                "starts: train with strategy='ddp' and a launcher such as torchrun."
            )
        self._doctor = self._found_doctor(trainer) if self.prune_on else None

    def _found_doctor(self, trainer: Any) -> Finder:
        doctor = next((each for each in trainer.callbacks if isinstance(each, Finder)), None)
        if doctor is None:
            raise MisconfigurationException(
                f"`prune_on` names findings ({', '.join(self.prune_on)}), and no Doctor is there "
                "to find them: add `Doctor()` to the Trainer's callbacks, or say `prune_on=[]`."
            )
        known = {*SEVERITIES, *(rule.code for rule in doctor.rules)}
        unknown = [name for name in self.prune_on if name not in known]
        if unknown:
            raise MisconfigurationException(
                f"`prune_on` must name severities ({', '.join(SEVERITIES)}) or codes of the "
                f"Doctor's rules, got {unknown[0]!r}."
            )
        return doctor

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prune if something was found; findings are the same on every rank."""
        self._prune_by_findings(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Report the metric, and prune if the pruner says so or something was found."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._prune_by_findings(trainer)
        if self.monitor is not None:
            self._report(self.monitor, trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Prune by what the last batches showed."""
        self._prune_by_findings(trainer)

    def _prune_by_findings(self, trainer: Any) -> None:
        for finding in () if self._doctor is None else self._doctor.findings:
            if self._counts(finding):
                self._prune(trainer, finding.code, finding.message)

    def _counts(self, finding: Finding) -> bool:
        """Say whether a finding is one to prune by."""
        is_severe = SEVERITIES.index(finding.severity) <= SEVERITIES.index(self.severity)
        return finding.severity in self.prune_on or (is_severe and finding.code in self.prune_on)

    def _report(self, monitor: str, trainer: Any) -> None:
        """Report on rank zero, and have all ranks hear what follows."""
        value = trainer.callback_metrics.get(monitor)
        answer: str | bool = False
        if self._speaks(trainer):
            if value is None:
                answer = "missing"
            else:
                self.trial.report(float(value), step=self._reports)
                answer = bool(self.trial.should_prune())
        answer = trainer.strategy.broadcast(answer)
        if answer == "missing":
            raise MisconfigurationException(
                f"`monitor` must be a metric that validation logs, got {monitor!r}; logged are "
                f"{sorted(trainer.callback_metrics)}."
            )
        self._reports += 1
        if answer:
            shown = "" if value is None else f" at {monitor} = {float(value):.4g}"
            validation = f"validation {self._reports}"
            self._prune(
                trainer, "pruner", f"The study's pruner ended it after {validation}{shown}."
            )

    def _speaks(self, trainer: Any) -> bool:
        """Say whether this rank talks to the trial: all do where that is a collective."""
        kinds = {cls.__name__ for cls in type(self.trial).__mro__}
        return bool(trainer.is_global_zero) or "TorchDistributedTrial" in kinds

    def _prune(self, trainer: Any, code: str, message: str) -> NoReturn:
        """Leave the reason with the trial, and end it.

        Raises:
            optuna.TrialPruned: On every rank.
        """
        if self._speaks(trainer):
            self.trial.set_user_attr("pruned_by", code)
            self.trial.set_user_attr("pruned_because", message)
            self.trial.set_user_attr("pruned_at_step", int(trainer.global_step))
        _end_trial(f"{code} at step {trainer.global_step}: {message}")

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Forget the trainer's Doctor."""
        self._doctor = None

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Forget the trainer's Doctor."""
        self._doctor = None

    def state_dict(self) -> dict[str, Any]:
        """Return how many reports there were: a resumed trial goes on counting."""
        return {"reports": self._reports}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._reports = state_dict["reports"]


def _end_trial(message: str) -> NoReturn:
    import optuna  # noqa: PLC0415  # an extra

    raise optuna.TrialPruned(message)
