"""What W&B can show beyond scalars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_diag.loggers.table import Row

STEP = "trainer/global_step"
"""The x axis that Lightning's own metrics have in W&B."""


def histograms(logger: Any, values: Mapping[str, Sequence[float]], step: int) -> None:
    """Log counted histograms; non-finite values are not in them, but in a scalar beside them."""
    import numpy as np  # noqa: PLC0415  # wandb requires it
    import wandb  # noqa: PLC0415  # only whoever has a WandbLogger has wandb

    row: dict[str, Any] = {STEP: step}
    for name, (low, high, *counts) in values.items():
        width = (high - low) / len(counts)
        edges = [low + i * width for i in range(len(counts))] + [high]
        row[name] = wandb.Histogram(np_histogram=(np.asarray(counts), np.asarray(edges)))
    logger.experiment.log(row)


def table(logger: Any, name: str, columns: Sequence[str], rows: Sequence[Row], step: int) -> None:
    """Log a table; infinity and NaN, which JSON lacks, become text."""
    import wandb  # noqa: PLC0415

    shown = [[str(cell) if _odd(cell) else cell for cell in row] for row in rows]
    content = wandb.Table(columns=list(columns), data=shown, allow_mixed_types=True)
    logger.experiment.log({name: content, STEP: step})


def _odd(cell: str | float | None) -> bool:
    return isinstance(cell, float) and not math.isfinite(cell)
