"""Which finding explains which, how sure that is, and what would tell other causes apart."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

from lightning_diag.finding import SEVERITIES, Confidence, Finding, Severity
from lightning_diag.history import History
from lightning_diag.rules.experiments import experiment
from lightning_diag.rules.leap import AFTER_LEAPS, LEAP, NOT_OF_LEAPS
from lightning_diag.rules.reading import forward_order, parameters
from lightning_diag.rules.relations import (
    EXCLUDED_BY,
    FLEETING,
    GROWN,
    ORIGINS,
    RELATIONS,
    STANDING,
    STANDSTILLS,
    SUMMARIES,
    Relation,
    Side,
)

CAUSES: dict[str, tuple[str, ...]] = {
    effect: tuple(relation.cause for relation in relations)
    for effect, relations in RELATIONS.items()
}
"""Code to the codes that may explain it, the most direct first."""

BEHIND = {
    (effect, relation.cause)
    for effect, relations in RELATIONS.items()
    for relation in relations
    if relation.side == "behind"
}
"""Pairs of effect and cause in which the cause cuts gradients off, so it lies behind the effect."""

_LEVELS: tuple[Confidence, ...] = ("low", "medium", "high")
_TRIGGERS = {
    "learning-rate-too-high": "lr-rise",
    "learning-rate-too-low": "lr-fall",
    "exploding-gradient": "gradient-spike",
    "loss-spike": LEAP,
}
"""Code to the kind of event that shows it at work."""


class Link(NamedTuple):
    """A cause that a finding may have, and what speaks for it."""

    cause: str
    """Its code."""
    points: int
    """How many pieces of evidence there are."""
    reasons: tuple[str, ...]
    """Them, and how such a cause works, as sentences."""


def explain(
    findings: Iterable[Finding],
    history: History,
    unsure: Collection[str] = (),
    noticed: Mapping[str, int] | None = None,
    foretold: Collection[str] = (),
) -> list[Finding]:
    """Set causes and consequences, and rank: cause before consequence, then by severity.

    A finding has at most one cause. It is one that the table of relations names, that began no
    later and, where the table asks for it, lies behind it in the network. Of several the one
    counts for which most speaks, then the most direct; one that itself explains another of them
    is not meant. `cause_of` has all consequences, direct or not.

    Args:
        findings: What was found.
        history: Where it was found.
        unsure: Codes of findings that were there as soon as they could be judged, so that they
            may have begun earlier than they say.
        noticed: Code to the step at which a finding was first seen, where that is known.
        foretold: Codes of findings of before training, which no rule has seen since.
    """
    known = {finding.code: finding for finding in findings}
    if not known:
        return []
    return _Case(known, history, unsure, noticed or {}, foretold).ranked()


class _Case:
    """The findings of a run, while their causes are looked for."""

    def __init__(
        self,
        known: Mapping[str, Finding],
        history: History,
        unsure: Collection[str],
        noticed: Mapping[str, int],
        foretold: Collection[str],
    ) -> None:
        self._known = known
        self._history = history
        self._unsure = unsure
        self._noticed = noticed
        self._foretold = foretold
        self._links: dict[str, list[Link]] = {}

    @cached_property
    def _steps(self) -> list[int]:
        return self._history.steps

    @cached_property
    def _order(self) -> dict[str, int]:
        return forward_order(self._history)

    def ranked(self) -> list[Finding]:
        children: dict[str | None, list[str]] = {}
        for code in self._known:
            children.setdefault(self._parent(code), []).append(code)

        def family(code: str) -> list[str]:
            ranked = sorted(children.get(code, []), key=lambda c: _rank(self._known[c]))
            return [code] + [member for child in ranked for member in family(child)]

        families = [family(root) for root in children.get(None, [])]
        families.sort(key=lambda members: min(_rank(self._known[code]) for code in members))
        return [
            replace(
                self._told(code),
                cause_of=tuple(family(code)[1:]),
                severity=self._weight(code, family(code)),
            )
            for members in families
            for code in members
        ]

    def _weight(self, code: str, family: Sequence[str]) -> Severity:
        """Return how bad a finding is: data that bring about a problem are no mere note."""
        own = self._known[code].severity
        others = {self._known[member].severity for member in family}
        return "suspect" if code in ORIGINS and own == "note" and others != {"note"} else own

    def _told(self, code: str) -> Finding:
        """Return a finding with its cause, how sure that is, and what else it may be."""
        finding, links = self._known[code], self._direct(code)
        if not links:
            return replace(
                finding, caused_by=None, confidence=None, because=(), rivals=(), experiment=""
            )
        best = links[0]
        root = self._root(best.cause)
        rivals = [
            link.cause
            for link in links[1:]
            if link.points == best.points and self._root(link.cause) != root
        ]
        points, reasons = best.points, best.reasons
        if rivals:
            points = min(points, 2) - 1
        elif len({self._root(link.cause) for link in links}) == 1:
            points += 1
            reasons = (*reasons, "Nothing else that was found explains it.")
        return replace(
            finding,
            caused_by=best.cause,
            confidence=_LEVELS[max(0, min(points, 2))],
            because=reasons,
            rivals=tuple(rivals),
            experiment=experiment(best.cause, rivals[0], code) if rivals else "",
        )

    def _parent(self, code: str) -> str | None:
        links = self._direct(code)
        return links[0].cause if links else None

    def _root(self, code: str) -> str:
        parent = self._parent(code)
        return code if parent is None else self._root(parent)

    def _ancestors(self, code: str) -> set[str]:
        parent = self._parent(code)
        return set() if parent is None else {parent, *self._ancestors(parent)}

    def _direct(self, code: str) -> list[Link]:
        """Return the possible causes, the best first, without those that act through another."""
        if code not in self._links:
            links = [
                link
                for relation in self._relations(code)
                if (link := self._link(self._known[code], relation))
            ]
            behind = {above for link in links for above in self._ancestors(link.cause)}
            direct = [link for link in links if link.cause not in behind]
            self._links[code] = sorted(direct, key=lambda link: -link.points)
        return self._links[code]

    def _relations(self, code: str) -> Sequence[Relation]:
        """Return what the tables say may explain a finding, given how the loss leapt, if it did."""
        usual = RELATIONS.get(code, ())
        if code == "missing-gradient" and code in self._foretold:
            return ()  # a check tells a gradient that is None; what lets none pass makes zeros
        if GROWN.cause in self._foretold:
            usual = (GROWN, *usual) if code == "initial-loss" else usual
            usual = tuple(r for r in usual if (code, r.cause) != (GROWN.cause, "initial-loss"))
        spike = self._known.get("loss-spike")
        leap = next((e for e in spike.before if e.kind == LEAP), None) if spike else None
        if leap is None:
            return usual
        if code == "loss-spike":
            return [relation for relation in usual if relation.cause not in NOT_OF_LEAPS]
        is_later = self._noticed.get(code, self._known[code].steps[0]) >= leap.step
        return (AFTER_LEAPS[code], *usual) if code in AFTER_LEAPS and is_later else usual

    def _link(self, effect: Finding, relation: Relation) -> Link | None:
        """Return what speaks for a cause; None if it is not known, came later or lies elsewhere."""
        cause = self._known.get(relation.cause)
        if cause is None or _is_harmless(cause, effect):
            return None
        reasons = [relation.why]
        if relation.side:
            fits = self._fits(cause, effect, relation.side)
            if fits is False:
                return None
            if fits:
                reasons.append(_PLACES[relation.side])
        if relation is AFTER_LEAPS.get(effect.code):
            order: str | None = _SINCE  # whatever there was of it before did no harm
        else:
            order = self._order_in_time(cause, effect)
        if order is None or self._is_too_short(cause, effect):
            return None
        if relation.must_lead and not self._surely_leads(cause, effect):
            return None
        points = len(reasons) - 1
        if order:
            reasons.append(order)
            points += order not in (_TOGETHER, _AT_ONCE, _MEANWHILE)
        kind = _TRIGGERS.get(cause.code)
        trigger = [event for event in (*effect.before, *cause.before) if event.kind == kind]
        if trigger:
            reasons.append(trigger[0].text)
            points += 1
        return Link(cause.code, points, tuple(reasons))

    def _order_in_time(self, cause: Finding, effect: Finding) -> str | None:
        """Say how it is known that a cause came first; None if it did not."""
        if cause.code in ORIGINS:
            return "It was there before training began."
        if effect.code in SUMMARIES or cause.code in STANDING:
            return ""
        slack = _slack(effect.steps[0])
        earlier = effect.steps[0] - cause.steps[0]
        if earlier > min(slack, self._interval(effect.steps[0])):
            return f"It began {earlier:,} steps earlier."
        if earlier >= -slack:
            return _TOGETHER
        if cause.code in self._unsure:
            return _AT_ONCE
        half = (effect.steps[1] - effect.steps[0]) / 2
        is_early = effect.code in STANDSTILLS and -earlier <= max(half, _SOON)
        return _MEANWHILE if is_early else None

    def _interval(self, step: int) -> float:
        """Return how many steps lie between the looks at a step and before it."""
        end = bisect_right(self._steps, step)
        return self._steps[end - 1] - self._steps[end - 2] if end >= 2 else math.inf

    def _surely_leads(self, cause: Finding, effect: Finding) -> bool:
        """Return whether the effect cannot have been there as early as the cause."""
        first = cause.steps[0]
        return effect.code not in self._unsure and effect.steps[0] > first + _slack(first)

    def _is_too_short(self, cause: Finding, effect: Finding) -> bool:
        """Return whether a cause was over while its effect went on."""
        if cause.code not in FLEETING or cause.until is None:
            return False
        return effect.until is None or effect.until > cause.until

    def _fits(self, cause: Finding, effect: Finding, side: Side) -> bool | None:
        """Return whether a cause lies where it must; None if places are not known, and need not be.

        Seen from the input, what matters is where each of the two begins.
        """
        known = parameters(self._history)

        def positions(finding: Finding) -> list[int]:
            layers = [known[p]["layer"] if p in known else p for p in finding.places]
            return [self._order[layer] for layer in layers if layer in self._order]

        one, other = positions(cause), positions(effect)
        if not one or not other:
            return False if side == "ahead" else None
        if side == "behind":
            return max(one) >= min(other)
        if side == "before":
            return min(one) <= min(other) and not self._is_of_depth(cause, one)
        return min(one) < min(other) or self._is_of_depth(effect, other)

    def _is_of_depth(self, finding: Finding, positions: Sequence[int]) -> bool:
        """Return whether ReLUs were silent from the start on, and only from some depth on.

        No step has killed them, and it is not how each of them was set up: the signal that reaches
        them was lost little by little.
        """
        sites = self._history.meta.get("sites", {})
        before = list(sites.values())[: min(positions)]
        relus = sum(site["kind"] == "relu" for site in before)
        return finding.code == "dead-relu" and finding.steps[0] == 0 and relus >= _DEEP


def _is_harmless(cause: Finding, effect: Finding) -> bool:
    """Return whether a cause is a mere note, as of a run that does well, and its effect is not.

    What is wrong with the data or the set-up may have been noted before anything came of it, unless
    that has turned out to be something else.
    """
    if cause.severity != "note":
        return False
    is_withdrawn = cause.code in EXCLUDED_BY and cause.until is not None
    is_lasting = cause.code in ORIGINS or cause.code in STANDING
    return is_withdrawn or (effect.severity != "note" and not is_lasting)


def _slack(step: int) -> int:
    """Return by how many steps the beginning of a problem may be misjudged."""
    return max(2, step // 8)


_NEARER = "It lies nearer to the input, from where the signal comes."
_PLACES: dict[Side, str] = {
    "behind": "It lies between there and the loss.",
    "before": _NEARER,
    "ahead": _NEARER,
}
"""Place of a cause to what it says."""
_DEEP = 3
"""ReLUs that work before the first that does not, from which on depth is to blame (our choice)."""
_SOON = 96
"""Steps that a problem may have been there before a rule could say so (our choice: those that look
at the newest watched steps alone wait for about as many)."""
_TOGETHER = "Both began at about the same time, so which came first is not known."
_MEANWHILE = "It began early in that time."
_SINCE = "It was noticed only after the leap."
_AT_ONCE = "It was there as soon as it could be judged, and may have begun earlier."


def _rank(finding: Finding) -> tuple[int, int, str]:
    return SEVERITIES.index(finding.severity), finding.steps[0], finding.code
