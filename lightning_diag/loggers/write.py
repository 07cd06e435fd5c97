"""Sends numbers to experiment loggers: scalars to any, histograms and tables to those that can.

Loggers are told apart by the names of their classes, since each Lightning namespace has its own,
and importing one to ask would import the tool behind it. Only the first rank may call these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_diag._compat import is_logger
from lightning_diag.loggers import tensorboard, wandb
from lightning_diag.loggers.table import Row

Histogram = Sequence[float]
"""Lower and upper end of the range, then the count of each bin."""


def scalars(loggers: Sequence[Any], values: Mapping[str, float], step: int) -> None:
    """Log scalars at the trainer's step: every logger can."""
    for logger in loggers:
        logger.log_metrics(dict(values), step=step)


def histograms(loggers: Sequence[Any], values: Mapping[str, Histogram], step: int) -> None:
    """Log histograms that were counted already: W&B and TensorBoard can."""
    for logger in loggers:
        if is_logger(logger, "WandbLogger"):
            wandb.histograms(logger, values, step)
        elif is_logger(logger, "TensorBoardLogger"):
            tensorboard.histograms(logger, values, step)


def table(
    loggers: Sequence[Any], name: str, columns: Sequence[str], rows: Sequence[Row], step: int
) -> None:
    """Log a table as one object: W&B and TensorBoard can."""
    for logger in loggers:
        if is_logger(logger, "WandbLogger"):
            wandb.table(logger, name, columns, rows, step)
        elif is_logger(logger, "TensorBoardLogger"):
            tensorboard.table(logger, name, columns, rows, step)
