"""Findings on the terminal: each when it appears, and all of them at the end."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import rich
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from lightning_diag.finding import Finding
from lightning_diag.history import History
from lightning_diag.report import coverage
from lightning_diag.report.ending import how_it_ended
from lightning_diag.report.examples import suspicious_lines
from lightning_diag.report.verdict import Cause, judge
from lightning_diag.report.words import (
    SIGNS,
    Tone,
    count,
    evidence,
    listing,
    origin,
    period,
    plain,
    spans,
    where,
)

NAME = "lightning_diag"


def say(finding: Finding, *, when: str = "", console: Console | None = None) -> None:
    """Print a finding, in a few lines, above whatever progress bar is running.

    Args:
        finding: What to print.
        when: When it was seen; by default since its first step.
        console: Where to; by default rich's own console, which a rich progress bar shares.
    """
    out = console or rich.get_console()
    head = _head(finding, out, when=when or f"since step {finding.steps[0]:,}")
    rows = [("", plain(finding.message)), ("Where", where(finding))]
    rows += origin(finding)
    if finding.cause_of:
        rows.append(("Explains", listing(finding.cause_of)))
    rows.append(("Do", plain(finding.remedy)))
    write(out, Text(), head, Padding(_fields(rows), (0, 0, 0, 2)))


def summary(
    findings: Iterable[Finding],
    history: History,
    *,
    report: str | os.PathLike[str] | None = None,
    console: Console | None = None,
) -> None:
    """Print the verdict on a run: causes with what they explain, evidence, remedy, coverage.

    Args:
        findings: All findings of the run.
        history: What they rest on.
        report: Where the HTML report lies, when one was written.
        console: Where to print; by default rich's own console.
    """
    out = console or rich.get_console()
    verdict = judge(findings, history)
    parts: list[RenderableType] = [Text()]
    if verdict.causes:
        parts.append(Rule(NAME, style="dim"))
    parts.append(_verdict_line(verdict.tone, verdict.sentence, out))
    for cause in verdict.causes:
        parts += [Text(), *_cause(cause, out)]
    if verdict.causes:
        parts.append(Text())
    labels = suspicious_lines(history)
    if labels:
        rows = [("Suspicious", labels[0]), *((" ", line) for line in labels[1:])]
        parts.append(Padding(_fields(rows), (0, 0, 0, 2)))
    footer = _footer(history, brief=not verdict.causes, report=report is not None)
    parts.append(Padding(_fields(footer), (0, 0, 0, 2)))
    write(out, *parts)
    if report is not None:
        # A path that is wrapped can neither be clicked nor copied.
        line = Text.assemble(("  Report        ", "dim"), plain(os.fspath(report)))
        write(out, line, wrap=False)


def say_sum(sentence: str, unjudged: str, *, console: Console | None = None) -> None:
    """Print what some checks did, and what could not be judged.

    Args:
        sentence: What was found, in a sentence.
        unjudged: What could not judge, and why; empty if all could.
        console: Where to; by default rich's own console.
    """
    out = console or rich.get_console()
    tones: dict[str, Tone] = {"No problem": "healthy", "Nothing can": "unknown"}
    tone = next((t for begin, t in tones.items() if sentence.startswith(begin)), None)
    line = Text(f"{NAME}: {sentence}", style="bold")
    parts: list[RenderableType] = [Text(), _verdict_line(tone, sentence, out) if tone else line]
    if unjudged:
        parts.append(Padding(_fields([("Not judged", plain(unjudged))]), (0, 0, 0, 2)))
    write(out, *parts)


def say_measured(lines: Sequence[str], *, console: Console | None = None) -> None:
    """Print what was measured before training, each on a line of its own.

    Args:
        lines: Sentences; nothing is printed without any.
        console: Where to; by default rich's own console.
    """
    out = console or rich.get_console()
    if lines:
        rows = [("Measured", lines[0]), *((" ", line) for line in lines[1:])]
        write(out, Padding(_fields([(name, plain(line)) for name, line in rows]), (0, 0, 0, 2)))


def write(out: Console, *parts: RenderableType, wrap: bool = True) -> None:
    """Print with progress bars out of the way; without a terminal plain lines, and no more.

    Args:
        out: Where to.
        parts: What to print, below each other.
        wrap: Whether lines may be broken.
    """
    with _bars_aside(out):
        if out.options.ascii_only or not _is_seen(out):
            out.out(_plain_lines(out, parts, wrap=wrap), highlight=False)
            return
        for part in parts:
            out.print(part, soft_wrap=not wrap, highlight=False)


def _is_seen(out: Console) -> bool:
    """Return whether a person looks on; `record` keeps styles for whoever looks later."""
    return out.is_terminal or out.is_jupyter or out.record


def _plain_lines(out: Console, parts: Iterable[RenderableType], *, wrap: bool) -> str:
    """Render for a file, or a stream that is not Unicode: a foreign letter would end the training.

    Nothing trails a line, which would only make files larger and differences harder to read.
    """
    paper = io.TextIOWrapper(io.BytesIO(), encoding=out.encoding, errors="backslashreplace")
    printer = Console(file=paper, width=out.width)
    for part in parts:
        printer.print(part, soft_wrap=not wrap, highlight=False)
    paper.seek(0)
    return "\n".join(line.rstrip() for line in paper.read().split("\n")[:-1])


def _bars_aside(out: Console) -> AbstractContextManager[object]:
    """Let tqdm clear its bars and draw them again below; rich's own bars need no help.

    Without this, a line would be appended to the bar. Whoever never imported tqdm has no bar. In a
    file nothing can be cleared: there the empty line that all output begins with ends the bar's.
    """
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    if tqdm is None or not _is_seen(out):
        return nullcontext()
    aside: AbstractContextManager[object] = tqdm.external_write_mode(file=out.file)
    return aside


def _mark(tone: Tone, out: Console) -> str:
    sign = SIGNS[tone]
    return sign.ascii if out.options.ascii_only else sign.mark


def _verdict_line(tone: Tone, sentence: str, out: Console) -> Text:
    name = "" if tone in ("bad", "suspect", "note") else f"{NAME}: "
    return Text.assemble((f"{_mark(tone, out)} ", SIGNS[tone].style), (name + sentence, "bold"))


def _head(finding: Finding, out: Console, *, when: str = "") -> Text:
    sign = SIGNS[finding.severity]
    when = when or period(finding)
    return Text.assemble(
        (f"{_mark(finding.severity, out)} {sign.word}", sign.style),
        "  ",
        (plain(finding.code), "bold"),
        (f"  {when}", "dim"),
    )


def _cause(cause: Cause, out: Console) -> Iterator[RenderableType]:
    """Yield a cause in full and, beneath it, what it explains in short."""
    finding = cause.finding
    yield _head(finding, out)
    rows = [
        ("", plain(finding.message)),
        ("Where", where(finding)),
        ("Evidence", evidence(finding.evidence)),
        *origin(finding),
        ("Do", plain(finding.remedy)),
    ]
    yield Padding(_fields(rows), (0, 0, 0, 2))
    for found in cause.consequences:
        arrow = "-> " if out.options.ascii_only else "└─ "
        yield Padding(Text.assemble((arrow, "dim"), _head(found, out)), (0, 0, 0, 2))
        told = [("", plain(found.message)), ("Where", where(found))]
        told += [row for row in origin(found) if row[0] != "Because"]
        yield Padding(_fields(told), (0, 0, 0, 5))


def _fields(rows: Iterable[tuple[str, str]]) -> RenderableType:
    """Lay out labelled text: a row without a label takes the whole width."""
    parts: list[RenderableType] = []
    for label, text in rows:
        if not label:
            parts.append(_text(text))
            continue
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_column(style="dim", width=13, no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(label, _text(text))
        parts.append(grid)
    return Group(*parts)


def _text(text: str) -> Text:
    """Return text with its names in colour; they keep their backticks, for where there is none."""
    parts = [(f"`{piece}`", "cyan") if is_name else piece for is_name, piece in spans(text)]
    return Text.assemble(*parts)


def _footer(history: History, *, brief: bool, report: bool) -> Iterator[tuple[str, str]]:
    """Yield what the verdict rests on; in brief for a run without findings."""
    if not len(history):
        return
    ended = how_it_ended(history)
    if ended:
        yield "State", ended
    if not brief:
        steps_seen = count(len(history), "step")
        yield "Watched", f"{steps_seen}: {coverage.watched(history)}"
    missed = coverage.not_observed(history)
    if missed:
        yield "Not observed", missed
    for label, told in (
        ("Not judged", coverage.not_judged(history)),
        ("Muted", coverage.muted(history)),
    ):
        if told:
            parts = [f"{plain(what)} ({plain(why)})" for what, why in told.items()]
            where_else = "see the report" if report else "`lightning-diag report` shows them"
            rest = f", and {len(parts) - 3} more: {where_else}" if len(parts) > 4 else ""
            yield label, ", ".join(parts[: 3 if rest else 4]) + rest
    yield "Overhead", coverage.overhead(history)
