"""From what was measured to tables for people and to JSON."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, median

from arithmetic import Floor, Spread, floor, spread, total_ratio
from rounds import PERIOD, Measured
from variants import VARIANTS


@dataclass(frozen=True)
class Row:
    """One variant of one workload."""

    name: str
    """The variant."""
    title: str
    """What the table says."""
    compared_with: str
    """The variant that it was divided by."""
    problem: str | None = None
    """Why there are no numbers."""
    ratio: float = 0.0
    """Seconds per step over those of what it is compared with."""
    rounds: Spread | None = None
    """The same for whole blocks, round by round, with all their noise."""
    milliseconds: float = 0.0
    """Of a step, both kinds together."""
    plain_ratio: float | None = None
    """The same ratio for steps that were not watched."""
    watched_milliseconds: float | None = None
    """What watching adds to a step."""
    watched_share: float | None = None
    """Share of the measured steps that were watched."""
    extra_megabytes: float = 0.0
    """Peak memory over that of what it is compared with."""
    tensor_operations: int | None = None
    """Of a step that is not watched, where there is one, over those of what it is compared with."""
    python_calls: int | None = None
    """The same for Python calls."""


def row(name: str, results: dict[str, Measured], *, per_step: bool) -> Row:
    """Work out one variant's row.

    Args:
        name: The variant.
        results: What all variants of the workload told.
        per_step: Whether the length of a single step means something; on a GPU, which runs behind
            the program, only that of a block does.
    """
    variant = VARIANTS[name]
    mine, base = results[name], results[variant.compared_with]
    problem = mine.problem or base.problem
    if problem:
        return Row(name, variant.title, variant.compared_with, problem)
    mine_floor, base_floor = _floor(mine, per_step=per_step), _floor(base, per_step=per_step)
    extra = mine_floor.extra
    tensor, python = _extra_counts(mine, base)
    return Row(
        name,
        variant.title,
        variant.compared_with,
        ratio=mine_floor.mean / base_floor.mean
        if per_step
        else total_ratio(mine.blocks, base.blocks),
        rounds=spread(mine.blocks, base.blocks),
        milliseconds=1000 * mine_floor.mean,
        plain_ratio=None if extra is None else mine_floor.plain / base_floor.mean,
        watched_milliseconds=None if extra is None else 1000 * extra,
        watched_share=_share(mine.masks),
        extra_megabytes=mine.peak_megabytes - base.peak_megabytes,
        tensor_operations=tensor,
        python_calls=python,
    )


def _floor(measured: Measured, *, per_step: bool) -> Floor:
    if per_step:
        return floor(measured.blocks, measured.masks)
    return floor([[fmean(block)] for block in measured.blocks])


def _share(masks: list[list[bool]] | None) -> float | None:
    return None if masks is None else fmean(flag for mask in masks for flag in mask)


def _extra_counts(mine: Measured, base: Measured) -> tuple[int | None, int | None]:
    if not mine.counts or not base.counts:
        return None, None
    tensor, python = (
        round(median(mine_counts) - median(base_counts))
        for mine_counts, base_counts in zip(
            zip(*mine.counts, strict=True), zip(*base.counts, strict=True), strict=True
        )
    )
    return tensor, python


COLUMNS = (
    "variant",
    "seconds per step",
    "rounds: median (quartiles)",
    "steps not watched",
    "watched steps",
    "peak memory",
    "operations",
    "Python calls",
)
"""Of every table."""


def cells(row: Row) -> tuple[str, ...]:
    """Return a row's texts, one for each column."""
    if row.problem is not None or row.rounds is None:
        return (row.title, row.problem or "", *[""] * (len(COLUMNS) - 2))
    return (
        row.title,
        f"{row.ratio:.3f}",
        f"{row.rounds.median:.3f} ({row.rounds.low:.3f} to {row.rounds.high:.3f})",
        "" if row.plain_ratio is None else f"{row.plain_ratio:.3f}",
        _watched(row),
        f"{row.extra_megabytes:+.0f} MB",
        "" if row.tensor_operations is None else f"{row.tensor_operations:+,}",
        "" if row.python_calls is None else f"{row.python_calls:+,}",
    )


def _watched(row: Row) -> str:
    if row.watched_share is None:
        return ""
    share = f"{100 * row.watched_share:.1f} %"
    if row.watched_milliseconds is None:
        return share
    return f"{share}, each +{row.watched_milliseconds:.1f} ms"


@dataclass(frozen=True)
class Table:
    """One workload."""

    title: str
    """What was trained."""
    rounds: int
    """How often each variant's block was timed."""
    rows: list[Row]
    """The bare Trainer first."""

    def heading(self) -> str:
        """Say what a bare step takes."""
        milliseconds = self.rows[0].milliseconds
        return f"A bare step takes {milliseconds:.2f} ms; {self.rounds} rounds of {PERIOD} steps."

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [
            f"### {self.title}",
            "",
            self.heading(),
            "",
            "| " + " | ".join(COLUMNS) + " |",
            "|---|" + "---:|" * (len(COLUMNS) - 1),
            *("| " + " | ".join(cells(row)) + " |" for row in self.rows),
            "",
        ]
        return "\n".join(lines)

    def text(self) -> str:
        """Return the table for a terminal."""
        table = [COLUMNS, *(cells(row) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(
                text.ljust(width) if i == 0 else text.rjust(width)
                for i, (text, width) in enumerate(zip(texts, widths, strict=True))
            ).rstrip()
            for texts in table
        ]
        return "\n".join([self.title, self.heading(), *lines, ""])
