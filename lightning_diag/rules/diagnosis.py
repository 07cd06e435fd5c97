"""`Diagnosis`: findings over time, each said once, each with its cause and consequences."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from lightning_diag.finding import SEVERITIES, Finding, Severity
from lightning_diag.history import History
from lightning_diag.record import Record
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.causes import explain
from lightning_diag.rules.choice import Mute
from lightning_diag.rules.events import what_happened
from lightning_diag.rules.pace import Pace
from lightning_diag.rules.reading import listing
from lightning_diag.rules.relations import EXCLUDED_BY
from lightning_diag.rules.snapshot import Snapshot
from lightning_diag.rules.unmuted import Unmuted, left_out
from lightning_diag.warning import warn

_ENOUGH = 16
"""Watched steps after which a rule knows better than a check did before training (our choice)."""


@dataclass
class _Known:
    finding: Finding
    """The newest version."""
    said: Severity
    """The worst severity that was reported."""
    active: bool
    """Whether it was seen at the last update."""
    at_once: bool = False
    """Whether it was there as soon as its rule could judge: then it may have begun earlier."""
    noticed: int | None = None
    """The newest watched step when it was first seen; None in states of earlier versions."""
    foretold: bool = False
    """Whether a check found it before training, and no rule has seen it since."""


class Diagnosis:
    """What a set of rules has found in a run so far.

    A finding is news when it is new, or worse than it was said to be; otherwise it is updated
    silently. One that is no longer seen is kept, and its message says until when it was. A rule
    that fails switches itself off with one warning. What is muted is judged and kept apart: it is
    never news, and explains nothing.

    Args:
        rules: What to judge by, one rule for each code.
        mute: What not to speak of: ``"dead-relu"`` or, at some places only,
            ``"dead-relu:net.3*"``.
        others: Codes that no rule has, but checks before training may, for `mute`.

    Raises:
        ValueError: If two rules have the same code, or if `mute` names no code.

    Example:
        >>> diagnosis = Diagnosis([])
        >>> diagnosis.update(History())
        []
    """

    def __init__(
        self, rules: Sequence[Rule], mute: Sequence[str] = (), others: Sequence[str] = ()
    ) -> None:
        codes = [rule.code for rule in rules]
        twice = sorted({code for code in codes if codes.count(code) > 1})
        if twice:
            raise ValueError(f"`rules` must hold each rule once, got `{twice[0]}` twice.")
        self.rules = list(rules)
        self.mute = [Mute.parse(text, [*codes, *others]) for text in mute]
        self.warns = True
        """Whether this process may warn: with several, all of them judge and one speaks."""
        self._pace = Pace()
        self._known: dict[str, _Known] = {}
        self._failed: dict[str, str] = {}
        self._snapshot = Snapshot(History())
        self._could_judge: set[str] = set()
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

    def muted(self, history: History) -> dict[str, str]:
        """Return what is muted, and what there would have been to say of it."""
        return {
            str(mute): left_out(history, mute.place) if mute.place else self._hushed(mute.code)
            for mute in self.mute
        }

    def foretell(self, findings: Sequence[Finding]) -> list[Finding]:
        """Take over what was found before training; return what is to be said of it.

        A rule of the same code then says it no more, unless it is worse; and ends it if, with
        enough to judge by, it does not see it.
        """
        heard = [told for finding in findings if (told := self._unmuted(finding)) is not None]
        for told in heard:
            self._known[told.code] = _Known(
                told, told.severity, active=True, noticed=told.steps[0], foretold=True
            )
        self._ranked = self._explained(History())
        return list(self._ranked)

    def _unmuted(self, finding: Finding) -> Finding | None:
        """Return a finding with the places that are not muted; None if there are no others."""
        patterns = [mute.place for mute in self.mute if mute.code == finding.code and mute.place]
        kept = tuple(p for p in finding.places if not any(fnmatchcase(p, x) for x in patterns))
        return None if finding.places and not kept else replace(finding, places=kept)

    def is_due(self, record: Record) -> bool:
        """Take note of a record, once; return whether it is worth an update."""
        return self._pace.due(record)

    def update(self, history: History) -> list[Finding]:
        """Judge a history; return what is new or worse than said before, causes first."""
        self._snapshot = history = self._snapshot.of(history)
        self._not_observed = []
        seen: dict[str, Finding] = {}
        first: set[str] = set()
        for rule in self.rules:
            verdict = self._ask(rule, history)
            if isinstance(verdict, NotObserved):
                self._not_observed.append(verdict)
                continue
            if rule.code not in self._could_judge:
                self._could_judge.add(rule.code)
                first.add(rule.code)
            seen.update((finding.code, finding) for finding in verdict)
        for code in [code for code in seen if self._explainers(code, seen)]:
            del seen[code]
        news = {
            code for code, finding in seen.items() if self._take(finding, history, code in first)
        }
        unjudged = {item.code for item in self._not_observed}
        judged = {rule.code for rule in self.rules} - unjudged
        for code, known in self._known.items():
            lasts = known.foretold and not (code in judged and len(history) >= _ENOUGH)
            known.active = code in seen or lasts
        self._ranked = self._explained(history)
        return [finding for finding in self._ranked if finding.code in news]

    def state_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "known": [
                {**vars(known), "finding": known.finding.to_dict()}
                for known in self._known.values()
            ],
            "ranked": [finding.to_dict() for finding in self._ranked],
            "could_judge": sorted(self._could_judge),
            "pace": self._pace.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; what no rule of today tells of is forgotten."""
        codes = {rule.code for rule in self.rules}
        known = [
            _Known(**{**entry, "finding": Finding.from_dict(entry["finding"])})
            for entry in state["known"]
            if entry["finding"]["code"] in codes or entry.get("foretold")
        ]
        codes |= {entry.finding.code for entry in known}
        self._known = {entry.finding.code: entry for entry in known}
        hushed = self._muted_codes()
        self._ranked = [
            Finding.from_dict(finding)
            for finding in state["ranked"]
            if finding["code"] in codes - hushed
        ]
        self._could_judge = set(state.get("could_judge", ()))
        if "pace" in state:
            self._pace.load_state_dict(state["pace"])

    def _explainers(self, code: str, seen: Collection[str] = ()) -> list[str]:
        """Return what was found that a diagnosis by exclusion must not stand beside."""
        found = (self._known.keys() | set(seen)) - self._muted_codes()
        return sorted(EXCLUDED_BY.get(code, frozenset()) & found)

    def _explained(self, history: History) -> list[Finding]:
        hushed = self._muted_codes()
        heard = [known for code, known in self._known.items() if code not in hushed]
        unsure = {known.finding.code for known in heard if known.at_once}
        noticed = {
            known.finding.code: known.noticed for known in heard if known.noticed is not None
        }
        foretold = {known.finding.code for known in heard if known.foretold}
        findings = [self._told(known.finding) for known in heard]
        return explain(findings, history, unsure, noticed, foretold)

    def _muted_codes(self) -> set[str]:
        return {mute.code for mute in self.mute if not mute.place}

    def _hushed(self, code: str) -> str:
        """Say when the problem of a muted rule was seen."""
        if code not in self._known:
            return "not seen"
        known = self._known[code]
        first, last = known.finding.steps
        return f"{known.said}, seen from step {first:,} to {last:,}"

    def _ask(self, rule: Rule, history: History) -> list[Finding] | NotObserved:
        """Return what a rule says of the places that it is not muted at."""
        if rule.code in self._failed:
            return NotObserved(rule.code, self._failed[rule.code])
        patterns = [mute.place for mute in self.mute if mute.code == rule.code and mute.place]
        try:
            return rule.check(Unmuted(history, patterns) if patterns else history)
        except Exception as error:  # noqa: BLE001  # a rule must never end a training
            reason = f"the rule failed: {type(error).__name__}: {error}"
            self._failed[rule.code] = reason
            if self.warns:
                warn(
                    f"The rule `{rule.code}` is switched off for this run: "
                    f"{type(error).__name__}: {error}"
                )
            return NotObserved(rule.code, reason)

    def _take(self, finding: Finding, history: History, at_once: bool) -> bool:  # noqa: FBT001
        """Remember a finding; return whether it is news."""
        known = self._known.get(finding.code)
        if known is None:
            told = replace(finding, before=what_happened(history, finding.steps[0]))
            self._known[finding.code] = _Known(
                told, finding.severity, active=True, at_once=at_once, noticed=history.steps[-1]
            )
            return True
        old = known.finding
        steps = (min(old.steps[0], finding.steps[0]), max(old.steps[1], finding.steps[1]))
        is_worse = _is_worse(finding.severity, known.said)
        rule = next(rule for rule in self.rules if rule.code == finding.code)
        keeps = rule.tells_onset and known.active and not _is_worse(finding.severity, old.severity)
        known.finding = replace(
            old if keeps else finding, severity=finding.severity, steps=steps, before=old.before
        )
        known.said = finding.severity if is_worse else known.said
        known.foretold = False
        return is_worse

    def _told(self, finding: Finding) -> Finding:
        """Return a finding, with its end if it has passed or has been explained."""
        if self._known[finding.code].active:
            return finding
        last = finding.steps[1]
        until = f"{finding.message} It was seen until step {last:,}."
        others = self._explainers(finding.code)
        if not others:
            return replace(finding, message=until, until=last)
        until += f" Since then {listing(others)} would explain it."
        return replace(finding, message=until, until=last, severity="note")


def _is_worse(severity: Severity, other: Severity) -> bool:
    return SEVERITIES.index(severity) < SEVERITIES.index(other)
