"""`Doctor`: the one callback that most users add."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from lightning_diag._compat import LightningModule, Trainer
from lightning_diag.before_training import (
    Preflight,
    at_level,
    check_codes,
    checked,
    checks_of,
)
from lightning_diag.checks import Outcome
from lightning_diag.finding import SEVERITIES, Finding
from lightning_diag.history import History
from lightning_diag.monitors.activation import ActivationMonitor
from lightning_diag.monitors.base import Monitor
from lightning_diag.monitors.batch_norm import BatchNormMonitor
from lightning_diag.monitors.data import DataMonitor
from lightning_diag.monitors.dead_relu import DeadReLUTracker
from lightning_diag.monitors.examples import WorstExamples
from lightning_diag.monitors.filters import FilterMonitor
from lightning_diag.monitors.gradient import GradientMonitor
from lightning_diag.monitors.loss import LossMonitor
from lightning_diag.monitors.noise import GradientNoiseMonitor
from lightning_diag.monitors.output import OutputMonitor
from lightning_diag.monitors.setup import SetupMonitor
from lightning_diag.monitors.update_ratio import UpdateRatioLogger
from lightning_diag.monitors.validation import ValidationMonitor
from lightning_diag.monitors.weight import WeightMonitor
from lightning_diag.probe.eager import CompiledModels
from lightning_diag.probe.observer import Observer
from lightning_diag.probe.probe import Probe
from lightning_diag.probe.recorder import Recorder
from lightning_diag.probe.watcher import Watcher
from lightning_diag.record import Record
from lightning_diag.report import console
from lightning_diag.report.html import write_html
from lightning_diag.report.live_page import LivePage
from lightning_diag.report.payload import State
from lightning_diag.rules import Rule, default_rules
from lightning_diag.rules.choice import at_thresholds, near
from lightning_diag.rules.diagnosis import Diagnosis
from lightning_diag.warning import warn

REPORT_FILE = "report.html"
LONG = 10.0
"""Seconds of checks before training from which on they are mentioned (our choice)."""


class Doctor(Watcher):
    """Watch a training run, and say what is wrong with it: cause, evidence, remedy.

    Findings are printed when they appear; at the end of the fit, also a failed one, come a summary
    and a page with pictures, ``<log dir>/lightning_diag/report.html``, which is written during the
    fit, too, at most once a minute. Healthy runs get one line.
    Weights, optimizer state, buffers and random states end bit for bit as without it. Strategies
    that train in processes of their own (spawn, fork, notebook) leave `findings` and `history`
    there: open the history's file instead.

    Args:
        every_n_steps: Optimizer steps between two looks, at least 1; None takes the trainer's
            `log_every_n_steps`. The first steps and the last are looked at in any case.
        max_overhead: Share of the training time that watching may cost, above 0. The interval
            stretches to stay within it.
        startup_seconds: Seconds that watching may cost beyond that share, in all: most faults show
            early.
        monitors: What to measure; None takes all of them at their defaults.
        rules: What to judge by; None takes every rule at its defaults.
        thresholds: Thresholds of these rules, and of checks before training, to set anew, by code
            and name: ``{"dead-relu": {"fraction": 0.35}}``.
        mute: Rules that are neither printed nor stop the fit, as codes, or as codes with a pattern
            of places: ``["slow-dataloader", "dead-relu:net.3*"]``. The report lists them as muted.
        stop_on: Codes of findings, or severities, that end the fit as soon as one is found.
        preflight: What to check just before the first step: ``fast`` asks the fast checks of
            `Preflight` but those whose problem a rule here sees in the first steps anyway, and
            measures no epoch; ``full`` asks all checks, a list names some, ``off`` asks none. A
            `Preflight` in the same trainer goes before.
        dirpath: Folder below which history and report go; None takes the trainer's log dir.
        compiled_models: What a watched step does with compiled modules: ``eager`` runs them
            eagerly, so that calls inside are seen (dropout then draws from eager's random stream);
            ``leave`` runs them compiled, and the calls inside are not observed.

    Logs:
        At most 20 scalars that begin with ``diag/`` (in W&B with the section that they stand in),
        whatever the size of the model; see the monitors. What else each logger shows stands in
        docs/loggers.md.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If `monitors` or `rules` holds something else.

    Cost:
        Measured in docs/performance.md; each run reports its own.

    Example:
        >>> doctor = Doctor(stop_on=["non-finite"])
        >>> doctor.findings
        []

    See Also:
        `lightning_diag.rules`: the rules and their thresholds.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        *,
        max_overhead: float = 0.01,
        startup_seconds: float = 5.0,
        monitors: list[Monitor] | None = None,
        rules: list[Rule] | None = None,
        thresholds: dict[str, dict[str, float]] | None = None,
        mute: list[str] | None = None,
        stop_on: list[str] | None = None,
        dirpath: str | None = None,
        compiled_models: CompiledModels = "eager",
        preflight: Literal["off", "fast", "full"] | list[str] = "fast",
    ) -> None:
        super().__init__(
            every_n_steps,
            max_overhead=max_overhead,
            startup_seconds=startup_seconds,
            compiled_models=compiled_models,
            identity=None if dirpath is None else {"dirpath": dirpath},
        )
        self.monitors: list[Monitor] = default_monitors() if monitors is None else list(monitors)
        chosen: list[Rule] = list(default_rules()) if rules is None else list(rules)
        _expect(self.monitors, Monitor, "monitors")
        _expect(chosen, Rule, "rules")
        judges: list[Any] = at_thresholds([*chosen, *checks_of("full")], thresholds or {})
        self.rules: list[Rule] = judges[: len(chosen)]
        self.mute = list(mute or [])
        self.preflight: Literal["off", "fast", "full"] | list[str] = preflight
        codes = [rule.code for rule in self.rules]
        self.checks = at_level(judges[len(chosen) :], preflight)
        if preflight == "fast":
            self.checks = [c for c in self.checks if c.code not in codes and c.family != "cost"]
        self.stop_on = _known(stop_on or [], [*codes, *check_codes()])
        self.dirpath = dirpath
        self.diagnosis = Diagnosis(self.rules, self.mute, check_codes())
        self._trainer: Any = None
        self._wants_stop = self._is_mute = False
        self._folder: Path | None = None
        self._history = History()
        self._recorder: Recorder | None = None
        self._page = LivePage(max_overhead)

    takes_preflight: ClassVar[bool] = True
    """A `Preflight` beside it leaves it to say what was found."""

    @property
    def findings(self) -> list[Finding]:
        """What has been found so far, causes before their consequences."""
        return list(self.diagnosis.findings)

    @property
    def history(self) -> History:
        """The numbers of the run so far, the last run after a fit."""
        return self._history

    @property
    def observers(self) -> Sequence[Observer]:
        """The monitors."""
        return self.monitors

    @property
    def output_folder(self) -> str | None:
        """See `Watcher.output_folder`."""
        return self.dirpath

    @property
    def may_stop(self) -> bool:
        """Whether the user asked for it."""
        return bool(self.stop_on)

    @property
    def wants_stop(self) -> bool:
        """Whether something was found that the user wants the fit to end on."""
        return self._wants_stop

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See `Watcher.setup`."""
        super().setup(trainer, pl_module, stage)
        self._trainer = trainer

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check what is about to be trained, and begin to watch."""
        callbacks = trainer.callbacks  # type: ignore[union-attr]  # not declared
        given = next((each for each in callbacks if isinstance(each, Preflight)), None)
        outcome = checked(trainer, pl_module, (given or self).checks)
        super().on_train_start(trainer, pl_module)
        self._foretell(outcome)
        if given is not None:
            given.take(outcome)

    def _foretell(self, outcome: Outcome) -> None:
        """Say what was found before training; it becomes part of the diagnosis."""
        if not outcome.seconds:
            return
        news = self.diagnosis.foretell(outcome.findings)
        unjudged = {each.code: each.reason for each in outcome.not_observed}
        meta: dict[str, Any] = {
            "checks": list(outcome.seconds),
            "seconds": sum(outcome.seconds.values()),
        }
        self._history.update_meta({"preflight": {**meta, "not_judged": unjudged}})
        self._tell(news, "before training")
        if meta["seconds"] > LONG and self._trainer.is_global_zero:
            self._mention(
                f"What was checked before training took {meta['seconds']:.2g} s; "
                '`Doctor(preflight="off")` leaves it out.'
            )

    def _mention(self, sentence: str) -> None:
        try:
            console.say_sum(sentence, "")
        except Exception as error:  # noqa: BLE001  # as for findings
            self._is_mute = True
            warn(f"Findings are no longer printed: {type(error).__name__}: {error}")

    def on_open(self, probe: Probe) -> None:
        """See `Watcher.on_open`."""
        self._wants_stop = self._is_mute = False
        if self._trainer.global_step == 0:
            self.diagnosis = Diagnosis(self.rules, self.mute, check_codes())
        self.diagnosis.warns = self._trainer.is_global_zero
        self._folder = probe.folder
        self._recorder = None if probe.fit is None else probe.fit.recorder
        self._page = LivePage(self.max_overhead)
        if probe.history is not None:
            self._history = probe.history
        if self._history.meta.get("ended"):
            self._history.update_meta({"ended": ""})

    def on_record(self, record: Record) -> None:
        """Judge the run so far, if the record adds enough to it."""
        if self.diagnosis.is_due(record):
            self._judge()
        self._refresh()

    def on_note(self) -> None:
        """See `Watcher.on_note`."""
        self._judge()
        self._refresh()

    def _judge(self) -> None:
        """Judge the history, which is the same on every rank (P7)."""
        self._tell(self.diagnosis.update(self._history))

    def _tell(self, news: Sequence[Finding], when: str = "") -> None:
        """Say what is new: in the history, on the terminal and in the loggers."""
        self._wants_stop |= any({f.code, f.severity} & set(self.stop_on) for f in news)
        for finding in news:
            self._history.add_finding(finding)
            if self._trainer.is_global_zero:
                self._say(finding, when)
        if news and self._recorder is not None:
            self._recorder.show_findings(self.findings, news)

    def _say(self, finding: Finding, when: str) -> None:
        """Print a finding; a terminal that is gone costs the printing, and nothing else."""
        if self._is_mute:
            return
        try:
            console.say(finding, when=when)
        except Exception as error:  # noqa: BLE001  # whatever the stream does, training goes on
            self._is_mute = True
            warn(f"Findings are no longer printed: {type(error).__name__}: {error}")

    def on_close(self) -> None:
        """Judge the last record, and sum up: on the terminal, and as a page."""
        news = self.diagnosis.update(self._history)
        for finding in self.findings:
            self._history.add_finding(finding)
        unjudged = {item.code: item.reason for item in self.diagnosis.not_observed}
        muted = self.diagnosis.muted(self._history)
        self._history.update_meta({"not_judged": unjudged, "muted": muted, "ended": self._ending()})
        if not self._trainer.is_global_zero or self._trainer.fast_dev_run:
            return
        report = self._written()
        try:
            console.summary(self.findings, self._history, report=report)
        finally:  # also when the terminal is gone
            self._show_in_loggers(news, report)

    def _show_in_loggers(self, news: Sequence[Finding], report: Path | None) -> None:
        """Show the verdict in the trainer's loggers, which are still open, and the page."""
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.show_findings(self.findings, news)
            recorder.show_end(self.findings, report)

    def _ending(self) -> str:
        """Name what ended the fit: the exception, or nothing out of the ordinary."""
        error = sys.exc_info()[1]
        failed = self._trainer.state.status == "interrupted" and error is not None
        return type(error).__name__ if failed else "finished"

    def _refresh(self) -> None:
        """Write the page of the run so far if it is time, and charge the budget with it."""
        folder = self._folder  # none on all ranks but the first
        if folder is not None:
            took = self._page.refresh(lambda: self._write(folder, "running"))
            if took > 0 and self._probe is not None and self._probe.fit is not None:
                self._probe.fit.charge(took)

    def _written(self) -> Path | None:
        """Write the page; return where it lies, None if there is nowhere to write."""
        if self._folder is None:
            return None
        try:
            return self._write(self._folder, "ended")
        except Exception as error:  # noqa: BLE001  # the summary on the terminal must still come
            warn(f"The report could not be written: {error}")
            return None

    def _write(self, folder: Path, state: State) -> Path:
        return write_html(self._history, self.findings, folder / REPORT_FILE, state=state)

    def state_dict(self) -> dict[str, Any]:
        """See `Watcher.state_dict`."""
        return {**super().state_dict(), "diagnosis": self.diagnosis.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """See `Watcher.load_state_dict`."""
        super().load_state_dict(state_dict)
        if "diagnosis" in state_dict:
            self.diagnosis.load_state_dict(state_dict["diagnosis"])

    def __getstate__(self) -> dict[str, Any]:
        """Leave the trainer behind."""
        return {**super().__getstate__(), "_trainer": None, "_recorder": None}


def default_monitors() -> list[Monitor]:
    """Return one of each monitor, at its defaults."""
    return [
        GradientMonitor(),
        ActivationMonitor(),
        DeadReLUTracker(),
        UpdateRatioLogger(),
        LossMonitor(),
        WeightMonitor(),
        SetupMonitor(),
        OutputMonitor(),
        BatchNormMonitor(),
        GradientNoiseMonitor(),
        DataMonitor(),
        ValidationMonitor(),
        FilterMonitor(),
        WorstExamples(),
    ]


def _expect(members: Sequence[object], kind: type, argument: str) -> None:
    for member in members:
        if not isinstance(member, kind):
            message = (
                f"`{argument}` must hold instances of {kind.__name__}, "
                f"got {type(member).__name__}: leave it out for the defaults."
            )
            raise TypeError(message)


def _known(names: Sequence[str], codes: Sequence[str]) -> list[str]:
    known = [*SEVERITIES, *codes]
    for name in names:
        if name not in known:
            raise ValueError(
                f"`stop_on` must name severities ({', '.join(SEVERITIES)}) or codes of rules, "
                f"got {name!r}{near(name, known)}"
            )
    return list(names)
