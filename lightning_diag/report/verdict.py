"""Findings, folded: each cause once, with what it explains beneath it, and one sentence on top."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lightning_diag.finding import SEVERITIES, Finding, Severity
from lightning_diag.history import History
from lightning_diag.report.words import SIGNS, Tone, count, listing
from lightning_diag.rules.relations import ORIGINS


@dataclass(frozen=True)
class Cause:
    """A finding that nothing else explains, and the findings that it explains."""

    finding: Finding
    """The cause."""
    consequences: tuple[Finding, ...]
    """What follows from it, directly or through another consequence."""

    @property
    def severity(self) -> Severity | None:
        """The worst of what is left of it and of what follows from it; None when all has passed."""
        left = [found for found in (self.finding, *self.consequences) if found.until is None]
        return min((found.severity for found in left), key=SEVERITIES.index, default=None)


@dataclass(frozen=True)
class Verdict:
    """What is said of a run first."""

    tone: Tone
    """The worst severity of what lasts, `note` if all has passed, `healthy`, or `unknown` when
    nothing was watched."""
    sentence: str
    """The verdict in one sentence, cause first."""
    causes: tuple[Cause, ...]
    """All findings, most severe cause first."""

    def numbered(self) -> list[Finding]:
        """Return all findings in the order in which they are shown, causes before consequences."""
        return [found for cause in self.causes for found in (cause.finding, *cause.consequences)]


def judge(findings: Iterable[Finding], history: History) -> Verdict:
    """Fold the findings of a run and put them into one sentence."""
    causes = fold(findings)
    if causes:
        tone: Tone = causes[0].severity or "note"
        return Verdict(tone, f"{SIGNS[tone].meaning}: {_explain(causes)}.", causes)
    if not len(history):
        sentence = "Nothing can be said about this run: no optimizer step was watched."
        return Verdict("unknown", sentence, ())
    watched = count(len(history), "step")
    last = max(history.steps)
    return Verdict("healthy", f"No problem found in {watched} watched up to step {last:,}.", ())


def fold(findings: Iterable[Finding]) -> tuple[Cause, ...]:
    """Group findings under their causes, the most severe cause first."""
    known = {finding.code: finding for finding in findings}
    roots = [code for code in known if _root(code, known) == code]
    causes = [Cause(known[root], tuple(_below(root, known, {root}))) for root in roots]
    return tuple(sorted(causes, key=_rank))


def _below(code: str, known: Mapping[str, Finding], told: set[str]) -> Iterator[Finding]:
    """Yield what follows from a finding, each thing before what follows from that in turn."""
    for found in known.values():
        if found.caused_by == code and found.code not in told:
            told.add(found.code)
            yield found
            yield from _below(found.code, known, told)


def _rank(cause: Cause) -> int:
    """Rank by severity, and last what has passed."""
    return len(SEVERITIES) if cause.severity is None else SEVERITIES.index(cause.severity)


def _root(code: str, known: Mapping[str, Finding]) -> str:
    """Follow a finding to the one that nothing known explains; in a circle, to its first member."""
    seen = [code]
    while (parent := known[seen[-1]].caused_by) in known and parent is not None:
        if parent in seen:
            return min(seen[seen.index(parent) :], key=list(known).index)
        seen.append(parent)
    return seen[-1]


def _explain(causes: Sequence[Cause]) -> str:
    """Write the causes as the rest of the verdict's sentence."""
    first = causes[0]
    begin, end = first.finding.steps
    text = f"{first.finding.code} since step {begin:,}"
    earlier = any(found.steps[0] < begin for found in first.consequences)
    if earlier and first.finding.code in ORIGINS:
        text = f"{first.finding.code}, seen from step {begin:,} on"
    if first.finding.until is not None:
        text = f"{first.finding.code} from step {begin:,} to {end:,}"
    if first.consequences:
        text += f", which explains {listing([found.code for found in first.consequences])}"
    if first.severity is None:
        text += ", which has passed"
    others = [cause.finding.code for cause in causes[1:] if cause.severity]
    passed = [cause.finding.code for cause in causes[1:] if not cause.severity]
    text += f"; separately, {listing(others)}" if others else ""
    return f"{text}; passed: {listing(passed)}" if passed else text
