"""The report as one HTML file that needs nothing else: no network, no script."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lightning_diag.finding import Finding, Severity
from lightning_diag.history import History
from lightning_diag.report import coverage
from lightning_diag.report.heat import HeatMap, heat_maps
from lightning_diag.report.loss import LossChart, loss_chart
from lightning_diag.report.verdict import Verdict, judge
from lightning_diag.report.words import (
    SIGNS,
    count,
    evidence,
    number,
    origin,
    period,
    plain,
    spans,
    where,
)
from lightning_diag.rules import DEFAULT_RULES
from lightning_diag.rules.manual import Manual, manual


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
    loss: LossChart | None
    """The loss curve."""
    maps: tuple[HeatMap, ...]
    """The heat maps."""
    areas: tuple[coverage.Area, ...]
    """What was watched, and what was not."""
    not_judged: tuple[tuple[str, str], ...]
    """Rules that could not judge, and why."""
    muted: tuple[tuple[str, str], ...]
    """What the user has muted, and what there would have been to say of it."""
    manuals: Mapping[str, Manual]
    """What the manual says of each finding that it knows, by code."""


def page(history: History, findings: Iterable[Finding]) -> Page:
    """Return what the page of a run shows."""
    verdict = judge(findings, history)
    shown = verdict.numbered()
    return Page(
        verdict=verdict,
        numbers={finding.code: i for i, finding in enumerate(shown, start=1)},
        tones={finding.code: finding.severity for finding in shown},
        facts=tuple(_facts(history)),
        loss=loss_chart(history, shown),
        maps=tuple(heat_maps(history, shown)),
        areas=tuple(coverage.areas(history)),
        not_judged=tuple(coverage.not_judged(history).items()),
        muted=tuple(coverage.muted(history).items()),
        manuals=_manuals(shown),
    )


def _manuals(findings: Iterable[Finding]) -> dict[str, Manual]:
    """Return the manual's pages on what was found; a user's own rules have none."""
    codes = {finding.code for finding in findings}
    return {rule.code: manual(rule) for rule in DEFAULT_RULES if rule.code in codes}


def write_html(history: History, findings: Iterable[Finding], path: str | os.PathLike[str]) -> Path:
    """Write the report of a run.

    The file replaces an older one at once, so that a reader never sees half a page.

    Args:
        history: The run.
        findings: What was found in it.
        path: The file to write; its folder is made.

    Returns:
        The file.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        draft.write_text(render(page(history, findings)), encoding="utf-8", newline="\n")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def render(content: Page) -> str:
    """Return the page as HTML."""
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
        "where": where,
    }
    source, _, _ = PackageLoader("lightning_diag.report").get_source(templates, "report.css")
    style = f"\n{source}\n"
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return templates.get_template("report.html.jinja").render(
        page=content, signs=SIGNS, style=style, style_hash=digest
    )


def _harmless(value: object) -> object:
    """Pass what the templates print: names come from models and files, markup from templates."""
    return plain(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _facts(history: History) -> Iterable[tuple[str, str]]:
    """Yield what the history's meta says of the run, whatever that is."""
    meta = history.meta
    if len(history):
        yield "Steps", f"{max(history.steps) + 1:,}, of which {len(history):,} watched"
    parameters = meta.get("parameters")
    if parameters:
        yield "Parameters", _parameters(parameters)
    for i, optimizer in enumerate(meta.get("optimizers") or ()):
        yield ("Optimizer" if i == 0 else f"Optimizer {i + 1}"), _optimizer(optimizer)
    if "train_samples" in meta:
        yield "Training samples", f"{meta['train_samples']:,}"
    for title, key in (("Trainer", "trainer"), ("Versions", "versions")):
        values = {k: v for k, v in (meta.get(key) or {}).items() if v not in (None, -1)}
        if values:
            yield title, ", ".join(f"{name} {value}" for name, value in values.items())
    yield "Cost of watching", coverage.overhead(history)


def _optimizer(optimizer: Mapping[str, Any]) -> str:
    """Write an optimizer with the settings of its groups that matter most."""
    shown = ("lr", "momentum", "betas", "weight_decay")
    groups = [
        ", ".join(f"{key} {_setting(group[key])}" for key in shown if group.get(key))
        for group in optimizer.get("groups") or ()
        if isinstance(group, Mapping)
    ]
    return ": ".join(part for part in (str(optimizer.get("class", "?")), "; ".join(groups)) if part)


def _setting(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _parameters(known: Mapping[str, Mapping[str, Any]]) -> str:
    sizes = []
    for parameter in known.values():
        size = 1
        for length in parameter.get("shape", ()):
            size *= length
        sizes.append(size)
    return f"{sum(sizes):,} in {count(len(known), 'tensor')}"
