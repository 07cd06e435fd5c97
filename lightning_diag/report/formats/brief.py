"""Markdown: a summary that people read in a minute, and language models in one go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lightning_diag.finding import Finding
from lightning_diag.report import coverage, words
from lightning_diag.report.ending import how_it_ended
from lightning_diag.report.formats.subject import Judged
from lightning_diag.report.key_numbers import key_numbers
from lightning_diag.report.verdict import Cause

MOST_WORDS = 2000
_MOST_LETTERS = 2000
"""Of one text. Our choice: twice the longest message of our own rules; the rest is not ours."""
_LONGEST_WORD = 200
_PLACES = 8
_ROWS = 20
_TAIL = 900
"""Words for numbers and what was not observed (our choice): room for a reason for each rule."""


def brief(judged: Judged) -> str:
    """Return a summary of at most 2,000 words: verdict, causes, numbers, what was not observed.

    Where there is more to say, the parts at the end are left out, and how many is said.
    """
    verdict = judged.verdict
    ended = f" {how_it_ended(judged.history)}" if judged.has_run else ""
    head = [
        f"# {'Training run' if judged.has_run else 'Before training'}: {verdict.tone}",
        _one_line(verdict.sentence + ended),
        f"{'History' if judged.has_run else 'Module'}: `{_name(judged.path)}`",
    ]
    # What closes the summary keeps its share, however much was found.
    numbers = [_numbers(judged)] if judged.has_run else []
    tail = _within([*numbers, *_left_out(judged)], _TAIL)
    left = MOST_WORDS - sum(len(part.split()) for part in (*head, tail))
    found = [part for cause in verdict.causes for part in _cause(cause)]
    if found:
        head += ["## What was found", _within(found, left - 3)]
    return "\n\n".join(part for part in (*head, tail) if part) + "\n"


def _within(parts: Sequence[str], most: int) -> str:
    """Join parts as long as there are words left, and say how many were left out."""
    kept: list[str] = []
    left = most - 6
    for i, part in enumerate(parts):
        left -= len(part.split())
        if left < 0:
            kept.append(f"({len(parts) - i} more parts left out.)")
            break
        kept.append(part)
    return "\n\n".join(kept)


def _numbers(judged: Judged) -> str:
    rows = [f"- {label}: {_one_line(text)}" for label, text in key_numbers(judged.history)]
    return "\n".join(["## Key numbers", "", *rows[:_ROWS]])


def _cause(cause: Cause) -> Iterator[str]:
    finding = cause.finding
    yield "\n".join([_title("###", finding), "", *_rows(finding, in_full=True)])
    for found in cause.consequences:
        yield "\n".join([_title("####", found), "", *_rows(found, in_full=False)])


def _title(mark: str, finding: Finding) -> str:
    return f"{mark} {_one_line(finding.code)} ({finding.severity}, {words.period(finding)})"


def _rows(finding: Finding, *, in_full: bool) -> Iterator[str]:
    yield _one_line(finding.message)
    yield ""
    names = ", ".join(f"`{_name(place)}`" for place in finding.places[:_PLACES])
    more = len(finding.places) - _PLACES
    told = f"{names} and {more:,} more" if more > 0 else names or "the whole model"
    yield f"- Where: {told}"
    yield f"- Evidence: {words.evidence(finding.evidence)}"
    for label, text in words.origin(finding):
        if in_full or label != "Because":
            yield f"- {label}: {_one_line(text)}"
    if finding.cause_of:
        yield f"- Explains: {_one_line(', '.join(finding.cause_of))}"
    yield f"- Remedy: {_one_line(finding.remedy)}"


def _left_out(judged: Judged) -> Iterator[str]:
    """Yield what the verdict does not rest on."""
    if judged.has_run:
        watched = coverage.watched(judged.history)
        missed = coverage.not_observed(judged.history) or "nothing that any training has"
        rows = [f"- Observed: {_one_line(watched)}", f"- Not observed: {_one_line(missed)}"]
        yield "\n".join(["## What was observed", "", *rows])
    for title, told in (
        (f"{'Rules' if judged.has_run else 'Checks'} that could not judge", judged.unjudged),
        ("Muted", judged.muted),
    ):
        if told:
            lines = [f"- {_one_line(what)}: {_one_line(why)}" for what, why in told.items()]
            yield "\n".join([f"## {title}", "", *lines])


def _name(text: str) -> str:
    """Return a name from a model, which cannot end its own backticks."""
    return _one_line(text).replace("`", "'")


def _one_line(text: str) -> str:
    """Return text on one line, of which no word or line is endless, and nothing is markup."""
    clean = " ".join(words.plain(text).split())[:_MOST_LETTERS]
    cut = (word[:_LONGEST_WORD] for word in clean.split(" "))
    return " ".join(cut).replace("<", "&lt;")
