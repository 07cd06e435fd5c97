"""What differs between runs, as one HTML file that needs nothing else: no network, no file."""

from __future__ import annotations

import os
from collections import Counter
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lightning_diag.report.bundle import COMPARE_SCRIPTS, COMPARE_STYLES, bundle
from lightning_diag.report.compare.chart import chart
from lightning_diag.report.compare.differences import Differences
from lightning_diag.report.compare.payload import payload
from lightning_diag.report.ending import ending
from lightning_diag.report.payload import as_text
from lightning_diag.report.words import SIGNS, Tone, count, listing, plain, spans, unbroken

SETTINGS = 8
"""Settings that differ and are shown unfolded (our choice): what fits beside the verdicts."""
_STATES: dict[Tone, str] = {
    "bad": "broken",
    "suspect": "worth a look",
    "note": "with something good to know",
    "healthy": "without a problem",
    "unknown": "not watched",
}
"""What is said of runs, in a row."""


def write_page(found: Differences, path: str | os.PathLike[str]) -> Path:
    """Write the page; an older one is replaced at once. Return the file."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        draft.write_text(render(found), encoding="utf-8", newline="\n")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def render(found: Differences) -> str:
    """Return the page as HTML."""
    parts = bundle(COMPARE_STYLES, COMPARE_SCRIPTS)
    # What only some runs have, as the options of one optimizer, says less than what all have.
    settings = sorted(found.settings, key=lambda row: not all(row.cells))
    shown = min(SETTINGS, sum(all(row.cells) for row in settings) or SETTINGS)
    charts = [chart("Training loss", found.losses), chart("Validation loss", found.validation)]
    return (
        _templates()
        .get_template("compare.html.jinja")
        .render(
            found=found,
            headline=headline(found),
            signs=SIGNS,
            endings=[ending(run.history, running=False) for run in found.runs],
            charts=dict(zip(("loss", "validation"), charts, strict=True)),
            settings=(settings[:shown], settings[shown:]),
            style=_markup(parts.style),
            scripts=[_markup(script) for script in parts.scripts],
            policy=_markup(parts.policy),
            payload=_markup(as_text(payload(found))),
        )
    )


def headline(found: Differences) -> str:
    """Return how many runs are compared, and how they fare."""
    tones = Counter(verdict.tone for verdict in found.verdicts)
    told = [f"{n} {_STATES[tone]}" for tone in SIGNS if (n := tones[tone])]
    return f"{count(len(found.names), 'run')} compared: {listing(told, most=len(told))}"


@cache
def _templates() -> Environment:
    """Return what compiles the template, once for a process."""
    templates = Environment(
        loader=PackageLoader("lightning_diag.report.compare"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_harmless,
    )
    templates.filters |= {"spans": spans, "unbroken": unbroken}
    return templates


def _markup(text: str) -> Markup:
    """Mark what this package wrote itself: its files, and JSON without a letter of markup."""
    return Markup(text)  # noqa: S704  # nothing of a run is in it unescaped


def _harmless(value: object) -> object:
    """Pass what the template prints: names come from models and files, markup from the template."""
    return plain(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
