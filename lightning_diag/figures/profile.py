"""A metric along the depth of the model, at one step."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_diag.figures.look import (
    BLUE,
    GREY,
    RED,
    Look,
    height_of,
    label_places,
    legend_above,
    log_axis,
    look_of,
    sheet,
)
from lightning_diag.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def profile_figure(history: History, metric: str, step: int | None = None) -> Figure:
    """Draw a metric of all places at one step, the input on top.

    Args:
        history: The run.
        metric: What is drawn, such as ``gradient/layer_norm``.
        step: Optimizer step; of each place the newest number up to it counts. None for the last.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the history has no numbers of this metric up to that step.
    """
    newest, at = _numbers(history, metric, step)
    if not newest:
        until = "" if step is None else f" up to step {step}"
        raise ValueError(f"There is nothing to draw: the history has no {metric!r}{until}.")
    look = look_of(metric, newest.values())
    places = list(newest)
    figure, axes = sheet(height_of(places) + 0.9)
    _draw(axes, list(newest.values()), look)
    label_places(axes, places, height_of(places))
    axes.set_xlabel(look.unit)
    axes.set_title(f"{look.title} at step {at:,}", loc="left", parse_math=False)
    if axes.get_legend_handles_labels()[0]:
        legend_above(axes)
    return figure


def _draw(axes: Axes, numbers: Sequence[float], look: Look) -> None:
    """Draw a dot for each place; what has no place on the axis is marked at its edge."""
    if look.usual is not None:
        axes.axvspan(*look.usual, color=GREY, alpha=0.6, linewidth=0, label="usual")
    known = {i: value for i, value in enumerate(numbers) if math.isfinite(value)}
    shown = {i: v for i, v in known.items() if v > 0} if look.scale == "log" else known
    axes.plot(list(shown.values()), list(shown), "o-", color=BLUE, markersize=4, linewidth=1)
    if look.scale == "log":
        _scale(axes, [*shown.values(), *(look.usual or ())])
    elif look.scale == "share":
        axes.set_xlim(-0.02, 1.02)
    zero = [i for i in known if i not in shown]
    lost = [i for i in range(len(numbers)) if i not in known]
    _beside(axes, zero, 0.0, marker="<", color=BLUE, label="exactly 0")
    _beside(axes, lost, 1.0, marker="x", color=RED, label="NaN or inf")


def _scale(axes: Axes, values: list[float]) -> None:
    """Make the axis logarithmic, and at least a decade long."""
    if not values:
        axes.set_xticks([])
        return
    middle = math.sqrt(min(values)) * math.sqrt(max(values))
    low = min(min(values) / 1.3, middle / math.sqrt(10))
    high = max(max(values) * 1.3, middle * math.sqrt(10))
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    log_axis(axes.xaxis, low, high)


def _numbers(history: History, metric: str, step: int | None) -> tuple[Mapping[str, float], int]:
    """Return the newest number of each place up to a step, and the step of the newest of all."""
    newest: dict[str, float] = {}
    last = 0
    for place in history.places(metric):
        steps, values = history.series(metric, place)
        end = len(steps) if step is None else bisect_right(steps, step)
        if end:
            newest[place] = values[end - 1]
            last = max(last, steps[end - 1])
    return newest, last


def _beside(axes: Axes, rows: list[int], side: float, **style: Any) -> None:
    """Mark rows whose number has no place on the axis at its edge."""
    if rows:
        edge = axes.get_yaxis_transform()
        marks = axes.plot([side] * len(rows), rows, transform=edge, clip_on=False, **style)
        marks[0].set(linestyle="none", markersize=5)
