"""What TensorBoard can show beyond scalars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_diag.loggers.table import Row, markdown


def histograms(logger: Any, values: Mapping[str, Sequence[float]], step: int) -> None:
    """Log histograms that were counted already."""
    for name, (low, high, *counts) in values.items():
        width = (high - low) / len(counts)
        centres = [low + (i + 0.5) * width for i in range(len(counts))]
        logger.experiment.add_histogram_raw(
            name,
            min=low,
            max=high,
            num=sum(counts),
            sum=sum(n * x for n, x in zip(counts, centres, strict=True)),
            sum_squares=sum(n * x * x for n, x in zip(counts, centres, strict=True)),
            bucket_limits=[low + (i + 1) * width for i in range(len(counts))],
            bucket_counts=counts,
            global_step=step,
        )


def table(logger: Any, name: str, columns: Sequence[str], rows: Sequence[Row], step: int) -> None:
    """Log a table as Markdown text."""
    logger.experiment.add_text(name, markdown(columns, rows), global_step=step)
