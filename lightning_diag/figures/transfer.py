"""What training from scratch, the head alone and all of a pretrained module led to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from lightning_diag.figures.look import BLUE, GREY, INK, ORANGE, plain, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCRATCH = "from-scratch"


class Trained(Protocol):
    """One way to train, as `lightning_diag.transfer.comparison.Arm`."""

    @property
    def name(self) -> str:
        """Which."""

    @property
    def values(self) -> Sequence[float]:
        """The metric by seed."""

    @property
    def mean(self) -> float:
        """Of them."""

    @property
    def interval(self) -> tuple[float, float]:
        """Of the mean."""


class Differing(Protocol):
    """How one differs, as `lightning_diag.transfer.verdict.Difference`."""

    @property
    def arm(self) -> str:
        """Which."""

    @property
    def mean(self) -> float:
        """Above 0 where it is better than from scratch."""

    @property
    def interval(self) -> tuple[float, float]:
        """Of the mean."""


class Compared(Protocol):
    """What is drawn, as `lightning_diag.transfer.comparison.TransferComparison`."""

    @property
    def metric(self) -> str:
        """Its name."""

    @property
    def budget(self) -> str:
        """What each training had."""

    @property
    def arms(self) -> Sequence[Trained]:
        """All of them."""

    @property
    def differences(self) -> Sequence[Differing]:
        """Of those that transfer."""

    @property
    def verdict(self) -> str:
        """What follows."""


def transfer_figure(comparison: Compared) -> Figure:
    """Draw each arm's metric, seed by seed, with its mean and interval, and the verdict.

    Thin lines join the results of one seed. Beside the arms that transfer stands by how much they
    are better than the one from scratch.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure, axes = sheet(2.4)
    rows = list(comparison.arms)
    for seed in zip(*(arm.values for arm in rows), strict=True):
        axes.plot(seed, range(len(rows)), color=GREY, linewidth=0.8, zorder=1)
    for row, arm in enumerate(rows):
        colour = ORANGE if arm.name == SCRATCH else BLUE
        axes.plot(
            arm.interval, [row, row], color=colour, linewidth=6, alpha=0.3, solid_capstyle="butt"
        )
        axes.plot(arm.values, [row] * len(arm.values), ".", color=colour, markersize=6)
        axes.plot([arm.mean], [row], "|", color=INK, markersize=13, markeredgewidth=1.8)
    _tell(axes, rows, comparison.differences)
    axes.set_yticks(range(len(rows)), labels=[arm.name for arm in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(f"{plain(comparison.metric)} after {comparison.budget}", parse_math=False)
    axes.set_title(comparison.verdict.capitalize(), loc="left", fontsize="medium", color=INK)
    return figure


def _tell(axes: Axes, rows: Sequence[Trained], differences: Sequence[Differing]) -> None:
    """Write the differences beside the rows."""
    found = {each.arm: each for each in differences}
    for row, arm in enumerate(rows):
        if arm.name in found:
            low, high = found[arm.name].interval
            axes.annotate(
                f"{found[arm.name].mean:+.3g}\n({low:+.3g} to {high:+.3g})",
                (1.01, row),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize="x-small",
                color=INK,
            )
