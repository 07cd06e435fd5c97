"""The results in `docs/accuracy.md`, written by the draw itself."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from . import table
from .table import Result, Row

GOAL = 0.95
BEGIN, END = (
    "<!-- results: written by `python -m tests.clinic --page` -->",
    "<!-- end of results -->",
)


def renewed(text: str, results: Sequence[Result], seed: int) -> str:
    """Return a page with other results between its two marks.

    Raises:
        ValueError: If the page lacks a mark.
    """
    before, _, rest = text.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"The page needs the lines {BEGIN!r} and {END!r} around its results.")
    return "\n".join([before + BEGIN, *lines(results, seed), END + after])


def lines(results: Sequence[Result], seed: int) -> list[str]:
    """Return the results in Markdown, with where they fall short of the goal."""
    places = {g: len({r["index"] for r in results if r["group"] == g}) for g in ("sick", "healthy")}
    baselines = table.baseline_table(results)
    drawn = (
        f"Seed {seed}, drawn once: {places['sick']} places for sick runs, {places['healthy']} for "
        f"healthy ones; torch {version('torch')}, Lightning {version('pytorch-lightning')}, on a "
        "CPU."
    )
    return [
        drawn, "",
        *table.totals(results), "",
        *table.rule_table(results), "",
        *short(results), "",
        *(["### Published rules on the same runs", "", *baselines, ""] if baselines else []),
        "### Confusions", "",
        "Verdicts that stood where another was right:", "",
        *table.confusions(results), "",
    ]  # fmt: skip


def short(results: Sequence[Result]) -> list[str]:
    """Return which rules fall short of the goal, each with its number."""
    rows = [table.row(code, results) for code in table.codes_of(results)]
    parts = {
        "Recall": [(r, r.seen, r.sick) for r in rows],
        "Verdict": [(r, r.named, r.sick) for r in rows],
        "Precision": [(r, r.right, r.right + r.wrong) for r in rows],
    }
    return [
        f"- {name} below {GOAL}: {_listed(shares)}." for name, shares in parts.items() if shares
    ]


def _listed(shares: Sequence[tuple[Row, int, int]]) -> str:
    low = [f"`{row.code}` ({hits}/{of})" for row, hits, of in shares if of and hits / of < GOAL]
    return ", ".join(low) or "no rule"
