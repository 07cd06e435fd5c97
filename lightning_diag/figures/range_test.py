"""The curve of a learning rate range test, with what it suggests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from lightning_diag.figures.look import BLUE, GREY, INK, ORANGE, RED, legend_above, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (ORANGE, INK, RED)
SHOWN_ABOVE = 1.5
"""Heights of the fall that are shown above the first loss. Our choice: a loss that leaves for
infinity would press the fall flat."""


class Suggested(Protocol):
    """One suggestion, as `lightning_diag.lr.range_test.Suggestion`."""

    @property
    def name(self) -> str:
        """Of the method."""

    @property
    def lr(self) -> float:
        """The learning rate."""


class Curve(Protocol):
    """What is drawn, as `lightning_diag.lr.range_test.RangeTest`."""

    @property
    def lrs(self) -> Sequence[float]:
        """Rising learning rates."""

    @property
    def losses(self) -> Sequence[float]:
        """One for each."""

    @property
    def smoothed(self) -> Sequence[float]:
        """Of the first of them."""

    @property
    def suggestions(self) -> Sequence[Suggested]:
        """What the curve speaks for."""

    @property
    def reason(self) -> str:
        """Why it speaks for nothing."""


def range_figure(test: Curve) -> Figure:
    """Draw the losses over the learning rate, smoothed as well, and mark each suggestion.

    A curve without suggestion says why. What lies far above the first loss is cut off.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If no loss is finite.
    """
    if not test.smoothed:
        raise ValueError("There is no curve to draw: no loss of the range test is finite.")
    figure, axes = sheet(3.2)
    axes.plot(test.lrs, test.losses, ".", color=BLUE, alpha=0.35, markersize=4, label="loss")
    shown = list(test.lrs[: len(test.smoothed)])
    axes.plot(shown, test.smoothed, color=BLUE, linewidth=1.8, label="smoothed")
    for each, colour in zip(test.suggestions, COLOURS, strict=False):
        axes.axvline(
            each.lr,
            color=colour,
            linestyle="--",
            linewidth=1.2,
            label=f"{each.name}: {each.lr:.2g}",
        )
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss after the step")
    _cut_off(axes, test)
    legend_above(axes)
    if test.reason:
        axes.text(
            0.02, 0.04, f"No suggestion: {test.reason}.", transform=axes.transAxes,
            fontsize="small", color=INK, bbox={"facecolor": "white", "edgecolor": GREY},
        )  # fmt: skip
    return figure


def _cut_off(axes: Axes, test: Curve) -> None:
    finite = [loss for loss in test.losses if math.isfinite(loss)]
    low, first = min(finite), test.smoothed[0]
    fall = max(first - low, 0.1 * abs(first)) or 1.0
    high = min(max(finite), first + SHOWN_ABOVE * fall)
    axes.set_ylim(low - 0.08 * fall, high + 0.08 * fall)
