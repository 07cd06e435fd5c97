"""Which finding explains which: the table of causes, and when it applies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from lightning_diag.finding import SEVERITIES, Finding
from lightning_diag.history import History
from lightning_diag.rules.reading import forward_order, parameters

CAUSES: dict[str, tuple[str, ...]] = {
    "non-finite": ("exploding-gradient", "learning-rate-too-high"),
    "exploding-gradient": ("learning-rate-too-high",),
    "dead-relu": ("exploding-gradient", "learning-rate-too-high"),
    "saturated-activation": ("exploding-gradient", "learning-rate-too-high"),
    "vanishing-gradient": ("saturated-activation", "dead-relu", "learning-rate-too-high"),
    "missing-gradient": ("dead-relu", "vanishing-gradient", "learning-rate-too-high"),
    "learning-rate-too-low": ("vanishing-gradient", "missing-gradient"),
}
"""Code to the codes that may explain it, the most direct first. It has no cycle."""

BEHIND = {
    ("vanishing-gradient", "saturated-activation"),
    ("vanishing-gradient", "dead-relu"),
    ("missing-gradient", "dead-relu"),
}
"""Pairs of effect and cause in which the cause cuts gradients off, so it lies behind the effect."""


def explain(findings: Iterable[Finding], history: History) -> list[Finding]:
    """Set causes and consequences, and rank: cause before consequence, then by severity.

    A finding has at most one cause: the most direct one in the table that began no later and,
    where the table asks for it, lies behind it in the network. `cause_of` has all consequences,
    direct or not.
    """
    known = {finding.code: finding for finding in findings}
    if not known:
        return []
    order = forward_order(history)
    parents = {code: _cause(finding, known, history, order) for code, finding in known.items()}
    children: dict[str | None, list[str]] = {}
    for code, parent in parents.items():
        children.setdefault(parent, []).append(code)

    def family(code: str) -> list[str]:
        ranked = sorted(children.get(code, []), key=lambda c: _rank(known[c]))
        return [code] + [member for child in ranked for member in family(child)]

    families = [family(root) for root in children.get(None, [])]
    families.sort(key=lambda members: min(_rank(known[code]) for code in members))
    return [
        replace(known[code], caused_by=parents[code], cause_of=tuple(family(code)[1:]))
        for members in families
        for code in members
    ]


def _rank(finding: Finding) -> tuple[int, int, str]:
    return SEVERITIES.index(finding.severity), finding.steps[0], finding.code


def _cause(
    effect: Finding, known: Mapping[str, Finding], history: History, order: Mapping[str, int]
) -> str | None:
    """Return the most direct known cause of a finding that fits in time and place."""
    for code in CAUSES.get(effect.code, ()):
        cause = known.get(code)
        if cause is None or not _began_first(cause, effect):
            continue
        if (effect.code, code) not in BEHIND or _is_behind(cause, effect, history, order):
            return code
    return None


def _began_first(cause: Finding, effect: Finding) -> bool:
    """Return whether a cause began no later, as exactly as the spacing of watched steps tells."""
    return cause.steps[0] <= effect.steps[0] + max(2, effect.steps[0] // 8)


def _is_behind(cause: Finding, effect: Finding, history: History, order: Mapping[str, int]) -> bool:
    """Return whether some of the cause lies nearer to the output than some of the effect."""
    known = parameters(history)

    def positions(finding: Finding) -> list[int]:
        layers = [known[p]["layer"] if p in known else p for p in finding.places]
        return [order[layer] for layer in layers if layer in order]

    nearest, farthest = positions(cause), positions(effect)
    return not nearest or not farthest or max(nearest) >= min(farthest)
