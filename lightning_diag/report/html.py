"""The report as one HTML file that needs nothing else: no network, no file beside it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lightning_diag.finding import Finding, Severity
from lightning_diag.history import History
from lightning_diag.report import coverage
from lightning_diag.report.bundle import bundle
from lightning_diag.report.heat import HeatMap, heat_maps
from lightning_diag.report.loss import LossChart, loss_chart
from lightning_diag.report.payload import State, as_text, payload
from lightning_diag.report.payload.facts import told
from lightning_diag.report.verdict import Verdict, judge
from lightning_diag.report.words import (
    SIGNS,
    count,
    evidence,
    origin,
    period,
    plain,
    spans,
    unbroken,
    where,
)
from lightning_diag.rules import DEFAULT_RULES
from lightning_diag.rules.manual import Manual, manual

_TOLD = ("Steps", "Parameters", "Optimizer")
"""Facts that stand near the verdict; the model's name is above it."""


@dataclass(frozen=True)
class Page:
    """Everything that the page shows, as plain values."""

    verdict: Verdict
    """The verdict and the folded findings."""
    numbers: Mapping[str, int]
    """Number of each finding on the page, by code."""
    tones: Mapping[str, Severity]
    """Severity of each, by code."""
    facts: tuple[tuple[str, str], ...]
    """What kind of run it was."""
    areas: tuple[coverage.Area, ...]
    """What was watched, and what was not."""
    not_judged: tuple[tuple[str, str], ...]
    """Rules that could not judge, and why."""
    muted: tuple[tuple[str, str], ...]
    """What the user has muted, and what there would have been to say of it."""
    manuals: Mapping[str, Manual]
    """What the manual says of each finding that it knows, by code."""
    payload: Mapping[str, Any]
    """What the charts show."""
    history: History = field(repr=False)
    """The run."""

    @property
    def told(self) -> tuple[str, ...]:
        """What kind of run it was, in a line."""
        known = dict(self.facts)
        return tuple(f"{name} {known[name]}" for name in _TOLD if name in known)

    @cached_property
    def loss(self) -> LossChart | None:
        """The loss curve, for who has no scripts."""
        return loss_chart(self.history, self.verdict.numbered())

    @cached_property
    def maps(self) -> tuple[HeatMap, ...]:
        """The heat maps, for who has no scripts."""
        return tuple(heat_maps(self.history, self.verdict.numbered()))


def page(history: History, findings: Iterable[Finding], *, state: State = "unknown") -> Page:
    """Return what the page of a run shows.

    Args:
        history: The run.
        findings: What was found in it.
        state: Whether the run goes on.
    """
    verdict = judge(findings, history)
    shown = verdict.numbered()
    return Page(
        verdict=verdict,
        numbers={finding.code: i for i, finding in enumerate(shown, start=1)},
        tones={finding.code: finding.severity for finding in shown},
        facts=tuple(told(history)),
        areas=tuple(coverage.areas(history)),
        not_judged=tuple(coverage.not_judged(history).items()),
        muted=tuple(coverage.muted(history).items()),
        manuals=_manuals(shown),
        payload=payload(history, verdict, state=state),
        history=history,
    )


def _manuals(findings: Iterable[Finding]) -> dict[str, Manual]:
    """Return the manual's pages on what was found; a user's own rules have none."""
    codes = {finding.code for finding in findings}
    return {rule.code: manual(rule) for rule in DEFAULT_RULES if rule.code in codes}


def write_html(
    history: History,
    findings: Iterable[Finding],
    path: str | os.PathLike[str],
    *,
    state: State = "unknown",
) -> Path:
    """Write the report of a run.

    The file replaces an older one at once, so that a reader never sees half a page.

    Args:
        history: The run.
        findings: What was found in it.
        path: The file to write; its folder is made.
        state: Whether the run goes on.

    Returns:
        The file.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        draft.write_text(
            render(page(history, findings, state=state)), encoding="utf-8", newline="\n"
        )
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def render(content: Page) -> str:
    """Return the page as HTML."""
    parts = bundle()
    template = _templates().get_template("report.html.jinja")
    return template.render(
        page=content,
        signs=SIGNS,
        style=parts.style,
        scripts=[_markup(script) for script in parts.scripts],
        policy=_markup(parts.policy),
        payload=_markup(as_text(content.payload)),
    )


@cache
def _templates() -> Environment:
    """Return what compiles the templates, once for a process."""
    templates = Environment(
        loader=PackageLoader("lightning_diag.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_harmless,
    )
    templates.filters |= {
        "count": count,
        "evidence": evidence,
        "origin": origin,
        "period": period,
        "spans": spans,
        "unbroken": unbroken,
        "where": where,
    }
    return templates


def _markup(text: str) -> Markup:
    """Mark what this package wrote itself: its files, and JSON without a letter of markup."""
    return Markup(text)  # noqa: S704  # nothing of a run is in it unescaped


def _harmless(value: object) -> object:
    """Pass what the templates print: names come from models and files, markup from templates."""
    return plain(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
