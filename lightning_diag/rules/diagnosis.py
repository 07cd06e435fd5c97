"""`Diagnosis`: findings over time, each said once, each with its cause and consequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning_diag.finding import SEVERITIES, Finding, Severity
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.causes import explain
from lightning_diag.warning import warn


@dataclass
class _Known:
    finding: Finding
    """The newest version."""
    said: Severity
    """The worst severity that was reported."""
    active: bool
    """Whether it was seen at the last update."""


class Diagnosis:
    """What a set of rules has found in a run so far.

    A finding is news when it is new, or worse than it was said to be; otherwise it is updated
    silently. One that is no longer seen is kept, and its message says until when it was. A rule
    that fails switches itself off with one warning.

    Args:
        rules: What to judge by, one rule for each code.

    Raises:
        ValueError: If two rules have the same code.

    Example:
        >>> diagnosis = Diagnosis([])
        >>> diagnosis.update(History())
        []
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        codes = [rule.code for rule in rules]
        twice = sorted({code for code in codes if codes.count(code) > 1})
        if twice:
            raise ValueError(f"`rules` must hold each rule once, got `{twice[0]}` twice.")
        self.rules = list(rules)
        self._known: dict[str, _Known] = {}
        self._failed: dict[str, str] = {}
        self._ranked: list[Finding] = []
        self._not_observed: list[NotObserved] = []

    @property
    def findings(self) -> list[Finding]:
        """All findings, causes before consequences; those that passed are last."""
        return [*self.active, *(f for f in self._ranked if not self._known[f.code].active)]

    @property
    def active(self) -> list[Finding]:
        """The findings seen at the last update, causes before consequences."""
        return [finding for finding in self._ranked if self._known[finding.code].active]

    @property
    def not_observed(self) -> list[NotObserved]:
        """The rules that could not judge at the last update, and why."""
        return list(self._not_observed)

    def update(self, history: History) -> list[Finding]:
        """Judge a history; return what is new or worse than said before, causes first."""
        self._not_observed = []
        seen: dict[str, Finding] = {}
        for rule in self.rules:
            seen.update((finding.code, finding) for finding in self._ask(rule, history))
        news = {code for code, finding in seen.items() if self._take(finding)}
        for code, known in self._known.items():
            known.active = code in seen
        self._ranked = explain([known.finding for known in self._known.values()], history)
        self._ranked = [self._told(finding) for finding in self._ranked]
        return [finding for finding in self._ranked if finding.code in news]

    def state_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "known": [
                {"finding": known.finding.to_dict(), "said": known.said, "active": known.active}
                for known in self._known.values()
            ],
            "ranked": [finding.to_dict() for finding in self._ranked],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        known = [
            _Known(Finding.from_dict(entry["finding"]), entry["said"], entry["active"])
            for entry in state["known"]
        ]
        self._known = {entry.finding.code: entry for entry in known}
        self._ranked = [Finding.from_dict(finding) for finding in state["ranked"]]

    def _ask(self, rule: Rule, history: History) -> list[Finding]:
        """Return a rule's findings, and remember why there are none."""
        if rule.code in self._failed:
            self._not_observed.append(NotObserved(rule.code, self._failed[rule.code]))
            return []
        try:
            verdict = rule.check(history)
        except Exception as error:  # noqa: BLE001  # a rule must never end a training
            reason = f"the rule failed: {type(error).__name__}: {error}"
            self._failed[rule.code] = reason
            warn(
                f"The rule `{rule.code}` is switched off for this run: "
                f"{type(error).__name__}: {error}"
            )
            verdict = NotObserved(rule.code, reason)
        if isinstance(verdict, NotObserved):
            self._not_observed.append(verdict)
            return []
        return verdict

    def _take(self, finding: Finding) -> bool:
        """Remember a finding; return whether it is news."""
        known = self._known.get(finding.code)
        if known is None:
            self._known[finding.code] = _Known(finding, finding.severity, active=True)
            return True
        old = known.finding
        steps = (min(old.steps[0], finding.steps[0]), max(old.steps[1], finding.steps[1]))
        is_worse = _is_worse(finding.severity, known.said)
        rule = next(rule for rule in self.rules if rule.code == finding.code)
        keeps = rule.tells_onset and known.active and not _is_worse(finding.severity, old.severity)
        known.finding = replace(old if keeps else finding, severity=finding.severity, steps=steps)
        known.said = finding.severity if is_worse else known.said
        return is_worse

    def _told(self, finding: Finding) -> Finding:
        """Return a finding, with its end if it has passed."""
        if self._known[finding.code].active:
            return finding
        until = f"{finding.message} It was seen until step {finding.steps[1]:,}."
        return replace(finding, message=until)


def _is_worse(severity: Severity, other: Severity) -> bool:
    return SEVERITIES.index(severity) < SEVERITIES.index(other)
