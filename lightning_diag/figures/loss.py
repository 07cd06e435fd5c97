"""The loss over the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_diag.figures.look import (
    BLUE,
    INK,
    LOG_FROM,
    ORANGE,
    RED,
    label_steps,
    log_axis,
    runs,
    sheet,
)
from lightning_diag.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_MARKS = 6
"""Findings that are marked. Our choice: more would hide the curve."""


def loss_figure(history: History) -> Figure:
    """Draw the loss of each training step, smoothed, and that of validation; mark findings.

    Where the loss was NaN or infinite a strip below says so. The axis is logarithmic where losses
    span more than a decade.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the history holds no training loss.
    """
    steps, values = history.series("loss/train")
    if not steps:
        raise ValueError("There is no loss to draw: the history has no `loss/train`.")
    figure, axes = sheet(3.2)
    reach = max(1, len(steps) // 100)
    finite = [value if math.isfinite(value) else math.nan for value in values]
    axes.plot(steps, finite, color=BLUE, alpha=0.25, linewidth=0.8, label="training, each step")
    label = f"training, mean of {2 * reach + 1} steps"
    axes.plot(steps, _smooth(finite, reach), color=BLUE, linewidth=1.8, label=label)
    shown = [value for value in finite if math.isfinite(value)] + _validation(axes, history)
    if shown and min(shown) > 0 and max(shown) / min(shown) >= LOG_FROM:
        axes.set_yscale("log")
        log_axis(axes.yaxis, min(shown), max(shown))
    _lost(axes, [s for s, v in zip(steps, values, strict=True) if not math.isfinite(v)])
    label_steps(axes)
    axes.set_ylabel("loss")
    axes.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
    _mark(axes, history)
    axes.legend(fontsize="small", frameon=False)
    return figure


def _smooth(values: Sequence[float], reach: int) -> list[float]:
    """Return centred means of what is finite; NaN stays where it was."""
    sums, counts = [0.0], [0]
    for value in values:
        known = math.isfinite(value)
        sums.append(sums[-1] + (value if known else 0.0))
        counts.append(counts[-1] + known)
    ends = [(max(0, i - reach), min(len(values), i + reach + 1)) for i in range(len(values))]
    return [
        (sums[b] - sums[a]) / (counts[b] - counts[a]) if math.isfinite(value) else math.nan
        for value, (a, b) in zip(values, ends, strict=True)
    ]


def _validation(axes: Axes, history: History) -> list[float]:
    name = (history.meta.get("validation") or {}).get("loss")
    steps, values = history.series(f"validation/{name}")
    known = [(s, v) for s, v in zip(steps, values, strict=True) if math.isfinite(v)]
    if known:
        axes.plot(*zip(*known, strict=True), "o--", color=ORANGE, markersize=4, label="validation")
    return [value for _, value in known]


def _lost(axes: Axes, steps: Sequence[int]) -> None:
    if steps:
        spans = [(first - 0.5, float(length)) for first, length in runs(steps)]
        transform = axes.get_xaxis_transform()
        axes.broken_barh(spans, (0.0, 0.04), color=RED, transform=transform, label="NaN or inf")


def _mark(axes: Axes, history: History) -> None:
    for i, finding in enumerate(history.findings[:MOST_MARKS]):
        axes.axvline(finding.steps[0], color=INK, linestyle=":", linewidth=0.9)
        axes.annotate(
            f" {finding.code}",
            (finding.steps[0], 0.97 - 0.07 * i),
            xycoords=("data", "axes fraction"),
            fontsize="x-small",
            color=INK,
            va="top",
            bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.4},
        )
