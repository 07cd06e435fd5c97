"""What differs between runs, as one HTML file that needs nothing else: no network, no script."""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from lightning_diag.history import Series
from lightning_diag.report.axis import Axis, Tick
from lightning_diag.report.compare.differences import Differences
from lightning_diag.report.words import SIGNS, plain

POINTS = 600
"""Points of a line (our choice): about one for each column of pixels."""
LOG_FROM = 50.0
"""Largest over smallest loss from which the axis is logarithmic, as in the report."""


@dataclass(frozen=True)
class Chart:
    """The losses of all runs in one picture."""

    title: str
    """What it shows."""
    lines: tuple[tuple[str, ...], ...]
    """For each run the pieces of its line, as points; a piece ends where the loss is not finite."""
    across: tuple[Tick, ...]
    """Marks of the steps, in percent from the left."""
    up: tuple[Tick, ...]
    """Marks of the losses, in percent from the bottom."""
    is_log: bool
    """Whether losses are on a logarithmic scale."""


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
    loader = PackageLoader("lightning_diag.report.compare")
    templates = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_harmless,
    )
    source, _, _ = loader.get_source(templates, "compare.css")
    style = f"\n{source}\n"
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    charts = [chart("Training loss", found.losses), chart("Validation loss", found.validation)]
    return templates.get_template("compare.html.jinja").render(
        found=found,
        signs=SIGNS,
        charts=[one for one in charts if one is not None],
        style=style,
        style_hash=digest,
    )


def _harmless(value: object) -> object:
    """Pass what the template prints: names come from models and files, markup from the template."""
    return plain(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def chart(title: str, curves: Sequence[Series]) -> Chart | None:
    """Return the picture of some curves; None when none has a finite number."""
    finite = [v for curve in curves for v in curve.values if math.isfinite(v)]
    if not finite:
        return None
    is_log = min(finite) > 0 and max(finite) / min(finite) >= LOG_FROM
    up = Axis.around(min(finite), max(finite), log=is_log)
    across = Axis.around(0, max(curve.steps[-1] for curve in curves if curve.steps))
    return Chart(
        title,
        tuple(tuple(_pieces(curve, across, up)) for curve in curves),
        tuple(across.ticks()),
        tuple(up.ticks()),
        is_log,
    )


def _pieces(curve: Series, across: Axis, up: Axis) -> Iterator[str]:
    """Yield the pieces of a line as points: the mean of each share of the steps."""
    stride = max(1, math.ceil(len(curve.values) / POINTS))
    points: list[str] = []
    for i in range(0, len(curve.values), stride):
        share = curve.values[i : i + stride]
        if all(map(math.isfinite, share)):
            value = math.fsum(share) / len(share)
            points.append(f"{across.at(curve.steps[i])},{100 - up.at(value):.2f}")
        elif points:
            yield " ".join(points)
            points = []
    if points:
        yield " ".join(points)
