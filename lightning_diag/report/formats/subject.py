"""`Judged`: a run and what was found in it, as the formats take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from lightning_diag.finding import Finding
from lightning_diag.history import History
from lightning_diag.report import coverage
from lightning_diag.report.verdict import Verdict, judge
from lightning_diag.rules import DEFAULT_RULES
from lightning_diag.rules.manual import Manual, manual


@dataclass(frozen=True)
class Judged:
    """A run, and what was found in it."""

    path: str
    """Its history file, with slashes."""
    history: History
    """Its numbers; `meta` says which rules could not judge, and what is muted."""
    findings: list[Finding]
    """What was found."""
    failing: tuple[str, ...] = ()
    """Codes of the findings that count as failures."""

    @property
    def has_run(self) -> bool:
        """Whether there is a run, and not only what was found before one."""
        return True

    @cached_property
    def verdict(self) -> Verdict:
        """The verdict, with the findings folded under their causes."""
        return judge(self.findings, self.history)

    @property
    def unjudged(self) -> Mapping[str, str]:
        """The rules that could not judge, and why."""
        return coverage.not_judged(self.history)

    @property
    def muted(self) -> Mapping[str, str]:
        """What is muted, and what there would have been to say of it."""
        return coverage.muted(self.history)

    @cached_property
    def manuals(self) -> dict[str, Manual]:
        """What the manual says of each finding that it knows, by code."""
        codes = {finding.code for finding in self.findings}
        return {rule.code: manual(rule) for rule in DEFAULT_RULES if rule.code in codes}

    @property
    def codes(self) -> list[str]:
        """The codes of all rules, those of the user that found something included."""
        own = {rule.code for rule in DEFAULT_RULES}
        return sorted(own | {finding.code for finding in self.findings})
