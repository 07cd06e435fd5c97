"""`Screen`: what one experiment logger can show; each kind of logger has its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_diag.finding import Finding
from lightning_diag.history import History
from lightning_diag.loggers.names import in_section
from lightning_diag.report.verdict import Verdict

Histogram = Sequence[float]
"""Lower and upper end of the range, then the count of each bin."""


class Screen:
    """Shows a run in one logger, as far as that can. This one shows scalars, as any logger does.

    A method may raise: then the screen goes dark for the rest of the fit, and training goes on.

    Args:
        logger: One of the trainer's.
    """

    declares = True
    """Whether the first row names all scalars, as NaN where there is no number yet: tables of a
    fixed width need that (P39)."""

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def show_record(
        self, scalars: Mapping[str, float], histograms: Mapping[str, Histogram], step: int
    ) -> None:
        """Show the numbers of one watched step, by metric."""
        if scalars:
            named = {f"diag/{metric}": value for metric, value in scalars.items()}
            self.logger.log_metrics(named, step=step)

    def show_layers(self, history: History, step: int, *, last: bool) -> None:
        """Show every layer: its newest numbers, and its course as a row of a heat map.

        Args:
            history: The run so far.
            step: The trainer's step.
            last: Whether training is over; before, this should be quick.
        """

    def show_findings(self, verdict: Verdict, news: Sequence[Finding], step: int) -> None:
        """Show the verdict so far; tell at once of the findings that are news."""

    def show_end(self, verdict: Verdict, page: Path | None, step: int) -> None:
        """Show all findings, and the page that sums the run up, if there is one."""


def bin_edges(histogram: Histogram) -> tuple[list[float], list[float]]:
    """Return the edges of a histogram's bins and their counts.

    Example:
        >>> bin_edges([0.0, 1.0, 5.0, 7.0])
        ([0.0, 0.5, 1.0], [5.0, 7.0])
    """
    low, high, *counts = histogram
    width = (high - low) / len(counts)
    return [*(low + i * width for i in range(len(counts))), high], counts


def section_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Name values for W&B."""
    return {in_section(metric): value for metric, value in values.items()}
