"""What figures share: how each metric is shown, names that fit, and a sheet to draw on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

BLUE, ORANGE, RED, GREY, INK = "#0072b2", "#e69f00", "#d55e00", "#d5d9dd", "#3a4046"
"""Colours that all kinds of colour vision tell apart (Okabe and Ito, Color Universal Design, 2008);
red is their vermillion."""

WIDTH = 7.0
"""Inches: about the text width of a page."""

LOG_FROM = 10.0
"""Largest over smallest number from which an axis is logarithmic. Our choice: one decade."""


class Look(NamedTuple):
    """How a metric is shown."""

    title: str
    """Its name for people."""
    unit: str
    """What its numbers are in."""
    scale: Literal["log", "share", "linear"]
    """Of the axis or the colours; shares go from 0 to 1."""
    usual: tuple[float, float] | None = None
    """From where to where numbers are usual."""


LOOKS = {
    "gradient/layer_norm": Look("Gradient norm by layer", "L2 norm", "log"),
    "gradient/norm": Look("Gradient norm by parameter", "L2 norm", "log"),
    # About 1e-3: Stanford's CS231n, "Neural Networks Part 3", ratio of weights to updates. Half a
    # decade to each side is our choice: "about" is no sharper than that.
    "update/ratio": Look("Update ratio by parameter", "ratio of norms", "log", (3e-4, 3e-3)),
    "dead_relu/fraction": Look("Dead ReLU units", "share of units", "share"),
    "activation/saturated_fraction": Look("Saturated activations", "share of inputs", "share"),
    "activation/std": Look("Standard deviation of activations", "standard deviation", "log"),
    "activation/variance_gain": Look("Variance gain by layer", "variance, out / in", "log"),
}
"""The metrics that `save_figures` draws."""


def look_of(metric: str, values: Iterable[float]) -> Look:
    """Return how a metric is shown: one that is not listed by its name and its numbers."""
    if metric in LOOKS:
        return LOOKS[metric]
    if metric.endswith(("_fraction", "/fraction", "_share")):
        return Look(metric, "share", "share")
    finite = [value for value in values if math.isfinite(value) and value != 0]
    wide = bool(finite) and min(finite) > 0 and max(finite) / min(finite) >= LOG_FROM
    return Look(metric, "value", "log" if wide else "linear")


def sheet(height: float) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise ImportError(
            f"Figures need matplotlib, which cannot be imported ({error}): run "
            "`pip install 'lightning-diag[plots]'`."
        ) from None
    figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.set_facecolor("white")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def label_steps(axes: Axes) -> None:
    """Say that the horizontal axis is in steps, which are whole."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415  # an extra

    axes.set_xlabel("optimizer step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def plain(name: str) -> str:
    """Return a name without what cannot be drawn, such as control characters."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in name)


def label_places(axes: Axes, places: Sequence[str], height: float) -> None:
    """Name the rows, the first on top; every n-th where there are too many to be read."""
    every = math.ceil(len(places) / max(1, int(height / 0.13)))
    prefix = _prefix(places)
    rows = range(0, len(places), every)
    names = [plain(places[row][len(prefix) :]) or '""' for row in rows]
    axes.set_yticks(list(rows), labels=names, fontsize="x-small", parse_math=False)
    axes.set_ylabel(f"place, below {plain(prefix)}" if prefix else "place", parse_math=False)
    axes.set_ylim(len(places) - 0.5, -0.5)


def runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return first and length of each run of neighbouring whole numbers.

    Example:
        >>> runs([3, 4, 5, 9])
        [(3, 3), (9, 1)]
    """
    found: list[tuple[int, int]] = []
    for number in numbers:
        first, length = found[-1] if found else (number, 0)
        if first + length == number:
            found[-1:] = [(first, length + 1)]
        else:
            found.append((number, 1))
    return found


def log_axis(axis: Axis, low: float, high: float) -> None:
    """Label a logarithmic axis that goes from `low` to `high`, in plain numbers if it is short."""
    from matplotlib.ticker import FuncFormatter, NullFormatter  # noqa: PLC0415  # an extra

    if low >= 1e-4 and high <= 1e5 and high / low < 1e3:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        few = FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
        axis.set_minor_formatter(few if high / low < 30 else NullFormatter())
    else:
        axis.set_minor_formatter(NullFormatter())


def legend_above(axes: Axes, **options: Any) -> None:
    """Put the legend where it hides nothing."""
    axes.legend(
        fontsize="x-small", frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1),
        borderaxespad=0.2, **options,
    )  # fmt: skip


def height_of(places: Sequence[object]) -> float:
    """Return inches of the axes: enough to read each name, up to a page's length."""
    return min(max(1.5, 0.17 * len(places)), 7.5)


def _prefix(places: Sequence[str]) -> str:
    """Return the module path that all places begin with."""
    parts = [place.split("/")[0].split(".")[:-1] for place in places]
    shared: list[str] = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return "".join(f"{name}." for name in shared) if len(places) > 1 else ""
