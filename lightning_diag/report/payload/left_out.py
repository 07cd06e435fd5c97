"""What the payload leaves out to keep the page small, in words; the history has all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lightning_diag.history import History
from lightning_diag.report.payload import histograms, series
from lightning_diag.report.payload.facts import MOST_PARAMETERS
from lightning_diag.report.payload.layers import Tree
from lightning_diag.report.words import count


def omissions(history: History, payload: Mapping[str, Any], tree: Tree) -> Iterator[str]:
    """Yield a sentence on each thing that is not shown in full.

    Args:
        history: The run.
        payload: What is shown of it.
        tree: Its layers.
    """
    shown = len(payload["axis"]["step"])
    if shown < len(history):
        yield f"The axis names {shown:,} of {len(history):,} records."
    train = payload["loss"]["train"]
    if train is not None and train["every"] > 1:
        yield f"Loss: a point is the mean of {train['every']:,} steps, with the least and largest."
    for each in payload["maps"]:
        yield from _of_map(each)
    for what, n in (
        ("layer", tree.left_out),
        ("histogram", histograms.left_out(history)),
        ("logged metric", series.left_out(history)),
        ("parameter", len(history.meta.get("parameters") or {}) - MOST_PARAMETERS),
    ):
        if n > 0:
            yield f"{count(n, what)} left out."


def _of_map(drawn: Mapping[str, Any]) -> Iterator[str]:
    columns = len(drawn["steps"])
    if columns < drawn["records"]:
        yield (
            f"{drawn['title']}: {drawn['records']:,} records in {columns:,} columns; each shows "
            f"the {drawn['pool']} number."
        )
    if drawn["left_out"]:
        yield f"{drawn['title']}: {count(drawn['left_out'], 'place')} without a row."
