"""Runs checks, one after the other, and leaves everything as it was."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_diag.checks.base import Check
from lightning_diag.checks.results import Result
from lightning_diag.checks.silence import silence
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.untouched import untouched
from lightning_diag.finding import SEVERITIES, Finding, NotObserved
from lightning_diag.measure.tally import ranks_apart


@dataclass(frozen=True)
class Outcome:
    """What some checks said."""

    findings: list[Finding] = field(default_factory=list)
    """What was found, the worst first."""
    not_observed: list[NotObserved] = field(default_factory=list)
    """The checks that could not judge, and why."""
    seconds: dict[str, float] = field(default_factory=dict)
    """What each check took, by code; the first that needs something pays for it."""
    results: dict[str, Result] = field(default_factory=dict)
    """What checks measured, by name: ``estimate`` of time and memory, ``lr-range``."""

    @property
    def estimate(self) -> Any:
        """What an epoch takes, an `Estimate`; None where no check of the family ``cost`` ran."""
        return self.results.get("estimate")


def chosen(level: str | Sequence[str], checks: Sequence[type[Check]]) -> list[type[Check]]:
    """Return the checks of a level, or of some names.

    Args:
        level: ``fast``, ``full`` (all but options, such as a range test), or a list of codes
            and names of families.
        checks: All there are.

    Raises:
        ValueError: If there is no such level or name.
    """
    if isinstance(level, str):
        if level not in ("fast", "full"):
            message = "`level` must be 'fast', 'full' or a list of checks"
            raise ValueError(f"{message}, got {level!r}.")
        levels = ("fast", "full") if level == "full" else ("fast",)
        return [check for check in checks if check.level in levels]
    known = {name for check in checks for name in (check.code, check.family) if name}
    for name in level:
        if name not in known:
            names = ", ".join(sorted(known))
            raise ValueError(f"`level` must name checks ({names}), got {name!r}.")
    return [check for check in checks if {check.code, check.family} & set(level)]


def run(checks: Iterable[Check], subject: Subject) -> Outcome:
    """Ask checks, after which everything is as before, also after an exception or Ctrl+C.

    A check that fails is not observed, and the others are asked.
    """
    outcome = Outcome()
    trainer = subject.trainer
    optimizers = [] if trainer is None else trainer.optimizers
    configs = [] if trainer is None else trainer.lr_scheduler_configs
    schedulers = [config.scheduler for config in configs]
    # Where there is no room for copies, nothing is run, and there is no room for these either.
    values = not subject.lacks("memory")
    kept = untouched(subject.original, optimizers, schedulers, others=subject.around, values=values)
    with ranks_apart(), kept, silence():
        try:
            for check in checks:
                began = time.perf_counter()
                verdict = _ask(check, subject)
                subject.tidy()
                outcome.seconds[check.code] = time.perf_counter() - began
                if isinstance(verdict, NotObserved):
                    outcome.not_observed.append(verdict)
                else:
                    outcome.findings.extend(verdict)
        finally:
            subject.release()
    outcome.results.update(subject.results)
    outcome.findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return outcome


def _ask(check: Check, subject: Subject) -> list[Finding] | NotObserved:
    if subject.time_left <= 0:
        return check.not_observed("the checks before it took all the time there is")
    try:
        return check(subject)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # a check must never end a training
        return check.not_observed(f"the check failed: {type(error).__name__}: {error}")
