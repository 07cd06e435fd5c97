"""`preflight` and `Preflight`: what is wrong with a set-up, before it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from lightning_diag._compat import (
    Callback,
    LightningModule,
    MisconfigurationException,
    Trainer,
)
from lightning_diag.checks import DEFAULT_CHECKS, Check, Outcome, Subject, chosen, run
from lightning_diag.finding import SEVERITIES, Finding, NotObserved
from lightning_diag.history import History
from lightning_diag.report import console
from lightning_diag.rules.causes import explain
from lightning_diag.rules.choice import at_thresholds, near
from lightning_diag.rules.manual import manual, markdown
from lightning_diag.warning import warn
from lightning_diag.wording import listing

AtThresholds = Mapping[str, Mapping[str, float]]
"""Code of a check to name of a threshold to its value."""


def preflight(
    module: Any,
    data: Any = None,
    *,
    level: str | Sequence[str] = "fast",
    thresholds: AtThresholds | None = None,
) -> list[Finding]:
    """Check a module and its data before training, without a Trainer.

    Everything runs on a copy of the module and of the loaders. Afterwards the module, its data's
    generators and samplers, and all random states are as before, bit for bit, also after an error.
    What user code does elsewhere stays done: files that `training_step` writes, or a logger that it
    calls past `self.log` and `self.logger`.

    Args:
        module: A LightningModule of either namespace.
        data: Training's loaders as Lightning's Trainer takes them, a pair of training's and
            validation's, or a LightningDataModule, whose `prepare_data` and `setup` are called on
            a shallow copy; None asks the module.
        level: ``fast`` takes no longer than a few batches; ``full`` asks all checks but options;
            a list names some: ``["lr-range"]`` is a range test.
        thresholds: Thresholds of the checks to set anew, by code and name:
            ``{"initial-loss": {"factor": 3.0}}``.

    Returns:
        What was found: causes before what they explain, the worst first. What could not be judged
        is not among it: see `preflight_outcome`.

    Raises:
        TypeError: If `module` is no LightningModule.
        ValueError: If there is no such level, check or threshold, or its value makes no sense.
    """
    return preflight_outcome(module, data, level=level, thresholds=thresholds).findings


def preflight_outcome(
    module: Any,
    data: Any = None,
    *,
    level: str | Sequence[str] = "fast",
    thresholds: AtThresholds | None = None,
) -> Outcome:
    """Do what `preflight` does; return also what could not be judged, and what each check took."""
    return explained(run(checks_of(level, thresholds), subject(module, data)))


def explained(outcome: Outcome) -> Outcome:
    """Return the same with causes and consequences, as rules know them: one cause, one verdict."""
    codes = {finding.code for finding in outcome.findings}
    return replace(outcome, findings=explain(outcome.findings, History(), foretold=codes))


def check_codes() -> list[str]:
    """Return the codes of all checks.

    Example:
        >>> "initial-loss" in check_codes()
        True
    """
    return [check.code for check in DEFAULT_CHECKS]


def page_of(check: type[Check], *, width: int = 100) -> str:
    """Return what there is to know of a check, as Markdown.

    Example:
        >>> from lightning_diag.checks import DEFAULT_CHECKS
        >>> page_of(DEFAULT_CHECKS[0]).splitlines()[0]
        '# nothing-to-train'
    """
    needs = ", ".join(f"`{need}`" for need in check.needs)
    asked = f"At level `{check.level}`" + (f", needs {needs}." if needs else ".")
    page = markdown(manual(check), width=width)
    head, _, rest = page.partition("## Thresholds")
    rows = rest.partition("## Measured by")[0].partition("\n- ")[2]
    end = page.partition("## References")[2]
    parts = [head.rstrip(), f"## Asked\n\n{asked}", f"## Thresholds\n\n- {rows.rstrip()}"]
    return "\n\n".join([*parts, f"## References{end}"])


def checks_of(level: str | Sequence[str], thresholds: AtThresholds | None = None) -> list[Check]:
    """Return the checks of a level, or of some names.

    Args:
        level: As `at_level` takes it.
        thresholds: Those to set anew; of any check, asked or not.

    Example:
        >>> [check.code for check in checks_of(["initial-loss"])]
        ['initial-loss']
    """
    every: list[Check] = [check() for check in DEFAULT_CHECKS]
    return at_level(at_thresholds(every, thresholds or {}), level)


def at_level(checks: Sequence[Check], level: str | Sequence[str]) -> list[Check]:
    """Return those of some checks that a level asks, or some names; `off` asks none."""
    wanted = chosen([] if level == "off" else level, DEFAULT_CHECKS)
    return [check for check in checks if type(check) in wanted]


def subject(module: Any, data: Any = None) -> Subject:
    """Return what checks look at, from what `preflight` takes."""
    if hasattr(data, "train_dataloader"):
        return Subject(module, datamodule=data)
    if isinstance(data, tuple) and len(data) == 2:
        return Subject(module, data[0], validation=data[1])
    return Subject(module, data)


class Preflight(Callback):
    """Check module, data and optimizers just before the first training step.

    Findings are printed when they appear, as Doctor's are; a healthy set-up gets one line. Nothing
    is checked when a run is resumed. On several devices the first process checks, on its own part
    of the data, and all of them hear what it found. With `Doctor` in the same trainer the findings
    become part of its diagnosis, and are said there.

    Args:
        level: ``fast`` takes no longer than a few batches; ``full`` asks all checks; a list names
            some.
        stop_on: Codes of findings, or severities, that end the fit before it begins.
        thresholds: Thresholds of the checks to set anew, by code and name:
            ``{"initial-loss": {"factor": 3.0}}``.

    Raises:
        ValueError: If there is no such level, check, severity or threshold.
        MisconfigurationException: When the fit begins and something of `stop_on` was found.

    Cost:
        Measured in docs/checks; copies of the module, which are left out where memory is short.

    Example:
        >>> Preflight(level=["initial-loss"]).findings
        []
    """

    def __init__(
        self,
        level: Literal["fast", "full"] | list[str] = "fast",
        *,
        stop_on: list[str] | None = None,
        thresholds: dict[str, dict[str, float]] | None = None,
    ) -> None:
        super().__init__()
        self.checks = checks_of(level, thresholds)
        self.level: Literal["fast", "full"] | list[str] = level
        self.stop_on = _known(stop_on or [])
        self.outcome = Outcome()

    @property
    def findings(self) -> list[Finding]:
        """What was found before the newest fit, the worst first; the same on all ranks."""
        return list(self.outcome.findings)

    @property
    def not_observed(self) -> list[NotObserved]:
        """The checks that could not judge, and why."""
        return list(self.outcome.not_observed)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check, and say what was found."""
        callbacks = trainer.callbacks  # type: ignore[union-attr]  # not declared
        if any(getattr(callback, "takes_preflight", False) for callback in callbacks):
            return
        outcome = checked(trainer, pl_module, self.checks)
        if trainer.is_global_zero and outcome.seconds:
            say(outcome)
        self.take(outcome)

    def take(self, outcome: Outcome) -> None:
        """Keep what was found.

        Raises:
            MisconfigurationException: If something of `stop_on` is among it.
        """
        self.outcome = outcome
        stops = [f for f in outcome.findings if {f.code, f.severity} & set(self.stop_on)]
        if stops:
            named = listing([each.code for each in stops])
            told = " ".join(each.message for each in stops)
            raise MisconfigurationException(
                f"Training was not begun, since `stop_on` names {named}. {told}"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what was found, and what the trainer lent: its module's `log`."""
        state = {**self.__dict__, "outcome": Outcome()}
        return {name: value for name, value in state.items() if name not in ("log", "log_dict")}


def checked(trainer: Any, module: Any, checks: Sequence[Check]) -> Outcome:
    """Check what a trainer is about to train. Every rank must call this; all get the same.

    The first rank checks while the others wait for what it found. Nothing within can wait for
    another rank, since the first does not know of any. A fit that goes on with an earlier one,
    which was checked before it began, is not checked.
    """
    is_resumed = trainer.global_step > 0 or trainer.current_epoch > 0 or trainer.ckpt_path
    if is_resumed or not checks:
        return Outcome()
    outcome = None
    if trainer.is_global_zero:
        try:
            outcome = explained(run(checks, Subject(module, trainer=trainer)))
        except Exception as error:  # noqa: BLE001  # the others wait, and training must go on
            warn(f"Nothing was checked before training: {type(error).__name__}: {error}")
            outcome = Outcome()
    shared: Outcome = trainer.strategy.broadcast(outcome)
    return shared


def say(outcome: Outcome, *, everything: bool = False) -> None:
    """Print findings, or one line if there is none; a terminal that is gone costs no more.

    Args:
        outcome: What checks said.
        everything: Whether to say also beside findings what could not be judged.
    """
    try:
        for finding in outcome.findings:
            console.say(finding, when="before training")
        if not outcome.findings or everything:
            console.say_sum(*summed_up(outcome))
        console.say_measured([result.line for result in outcome.results.values()])
    except Exception as error:  # noqa: BLE001  # whatever the stream does, training goes on
        warn(f"Findings are not printed: {type(error).__name__}: {error}")


def summed_up(outcome: Outcome) -> tuple[str, str]:
    """Return a line on what the checks did, and what they could not judge.

    Example:
        >>> summed_up(Outcome(seconds={"initial-loss": 0.25}))
        ('No problem found before training by 1 of 1 checks in 0.25 s.', '')
    """
    asked = len(outcome.seconds)
    judged = asked - len(outcome.not_observed)
    by_reason: dict[str, list[str]] = {}
    for each in outcome.not_observed:
        by_reason.setdefault(each.reason, []).append(each.code)
    unjudged = "; ".join(f"{', '.join(codes)} ({reason})" for reason, codes in by_reason.items())
    if asked and not judged:
        return "Nothing can be said before training: no check could judge.", unjudged
    found = len(outcome.findings)
    what = "No problem" if not found else "1 problem" if found == 1 else f"{found} problems"
    took = f"{sum(outcome.seconds.values()):.2g} s"
    return f"{what} found before training by {judged} of {asked} checks in {took}.", unjudged


def _known(names: Sequence[str]) -> list[str]:
    known = [*SEVERITIES, *check_codes()]
    for name in names:
        if name not in known:
            raise ValueError(
                f"`stop_on` must name severities ({', '.join(SEVERITIES)}) or codes of checks, "
                f"got {name!r}{near(name, known)}"
            )
    return list(names)
