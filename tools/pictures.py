"""Draw the pictures of `docs/clinic.md`; `clinic_page.py` runs this.

Pictures have a ground of their own, so that they can be read on dark pages too.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image

from lightning_diag.history import History

TREATED = "#0b61a4"
SICK = ("#b3261e", "#d98200", "#7a3e9d")
STYLE: dict[Any, Any] = {
    "figure.facecolor": "#ffffff",
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
    "axes.facecolor": "#ffffff",
    "axes.edgecolor": "#8c959f",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": "#e4e7ea",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


@dataclass(frozen=True)
class Run:
    """One training of an example, as its history tells it."""

    title: str
    """As printed."""
    outcome: str
    """How it ended, as printed."""
    history: History
    color: str
    """Of its lines."""
    style: str
    """Of its lines: they differ even without colours."""


Panel = Callable[[Axes, Sequence[Run]], None]


def smooth(values: Sequence[float]) -> list[float]:
    """Average each value with the nine before it, as far as they are finite."""
    spans = (values[max(0, i - 9) : i + 1] for i in range(len(values)))
    return [sum(span) / len(span) for span in spans]


def loss(ax: Axes, runs: Sequence[Run]) -> None:
    """Draw the training losses."""
    for one in runs:
        steps, values = one.history.series("loss/train")
        ax.plot(steps, smooth(values), one.style, color=one.color, label=one.title)
    ax.set_yscale("log")
    ax.set_title("Training loss (mean of 10 steps)")
    ax.set_xlabel("step")


def over_steps(metric: str, title: str, place: str = "", *, log: bool = False) -> Panel:
    """Return a panel of one metric over the steps."""

    def draw(ax: Axes, runs: Sequence[Run]) -> None:
        for one in runs:
            if place not in one.history.places(metric):
                continue
            steps, values = one.history.series(metric, place)
            ax.plot(steps, values, one.style, color=one.color, label=one.title)
        if log:
            ax.set_yscale("log")
        ax.set_title(title)
        ax.set_xlabel("step")

    return draw


def by_depth(metric: str, title: str, *, step: int = 0, log: bool = True, only: str = "") -> Panel:
    """Return a panel of a metric's places in their order, at one step."""

    def draw(ax: Axes, runs: Sequence[Run]) -> None:
        most = 0
        for one in runs:
            values = []
            for place in one.history.places(metric):
                series = one.history.series(metric, place)
                if only in place and step in series.steps:
                    values.append(series.values[series.steps.index(step)])
            depths = range(1, len(values) + 1)
            ax.plot(depths, values, one.style, marker="o", ms=4, color=one.color, label=one.title)
            most = max(most, len(values))
        if log:
            ax.set_yscale("log")
        ax.set_xticks(range(1, most + 1, 1 if most < 12 else 3))
        ax.set_title(title)
        ax.set_xlabel("layer, counted from the input")

    return draw


def both_losses(ax: Axes, runs: Sequence[Run]) -> None:
    """Draw training losses thin, and validation losses on top of them."""
    for one in runs:
        steps, values = one.history.series("loss/train")
        ax.plot(steps, smooth(values), ":", color=one.color, lw=1.3)
        series = one.history.series("validation/val_loss")
        ax.plot(*series, one.style, color=one.color, marker="o", ms=3, label=one.title)
    ax.set_yscale("log")
    ax.set_title("Validation loss (dotted: training loss)")
    ax.set_xlabel("step")


accuracy = over_steps("validation/val_accuracy", "Share of unseen samples that are right")


def ranges(ax: Axes, runs: Sequence[Run]) -> None:
    """Draw mean and standard deviation of what the network is given, by stage."""
    height = 0
    names = []
    for one in runs:
        for stage in ("train", "validation"):
            mean, std = (one.history.last(f"data/{m}")[f"{stage}/0"] for m in ("mean", "std"))
            ax.errorbar(mean, height, xerr=std, fmt="o", color=one.color, capsize=4)
            names.append("training" if stage == "train" else "validation")
            height -= 1
    ax.set_yticks(range(0, height, -1), names)
    ax.set_ylim(height + 0.4, 0.6)
    ax.set_title("What the network is given (mean ± std)")
    ax.set_xlabel("value")


def finite(panel: Panel, top: float) -> Panel:
    """Return the panel, cut off where a run leaves every scale."""

    def draw(ax: Axes, runs: Sequence[Run]) -> None:
        panel(ax, runs)
        ax.set_ylim(top=top)

    return draw


PANELS: dict[str, tuple[Panel, Panel]] = {
    "zero_lenet": (
        loss,
        by_depth("weight/duplicate_fraction", "Share of units that are copies", log=False),
    ),
    "loud_last_layer": (loss, by_depth("gradient/layer_norm", "Gradient norm at the first step")),
    "tanh_weights": (
        loss,
        by_depth("activation/std", "Spread of each layer's output at the start", only="tanh"),
    ),
    "relu_xavier": (
        loss,
        by_depth("activation/std", "Spread of each layer's output at the start", only="relu"),
    ),
    "deep_sigmoid": (loss, by_depth("gradient/layer_norm", "Gradient norm at the first step")),
    "learning_rates": (
        finite(loss, 1e3),
        over_steps("dead_relu/fraction", "Share of dead units, first layer", "net.1/relu#0"),
    ),
    "twenty_samples": (both_losses, accuracy),
    "thousand_samples": (both_losses, accuracy),
    "one_by_one": (loss, accuracy),
    "forgetful_rnn": (loss, accuracy),
    "unnormalised": (
        loss,
        over_steps("dead_relu/fraction", "Share of dead units, first layer", "net.1/relu#0"),
    ),
    "wrong_statistics": (both_losses, ranges),
    "tiny_batch_norm": (both_losses, accuracy),
    "softmax_twice": (
        loss,
        over_steps("gradient/total_norm", "Gradient norm of the whole network", log=True),
    ),
}


def plain(value: float, _: object) -> str:
    """Write a number, and powers of ten as such where there would be many zeros."""
    power = math.log10(value)
    if -3 <= power < 4 or not math.isclose(power, round(power)):
        return f"{value:g}"
    return f"$10^{{{round(power)}}}$"


def readable(ax: Axes) -> None:
    """Write the numbers of a logarithmic axis plainly, and few of them."""
    low, high = ax.get_ylim()
    subs = (1.0, 2.0, 5.0) if high / low < 200 else (1.0,)
    ax.yaxis.set_major_locator(LogLocator(subs=subs, numticks=9))
    ax.yaxis.set_major_formatter(plain)
    ax.yaxis.set_minor_formatter(NullFormatter())


def draw(name: str, runs: Sequence[Run], folder: Path) -> Path:
    """Draw the picture of an example into a folder: two panels, one legend."""
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(8, 3.1), dpi=180, layout="constrained")
        for panel, ax in zip(PANELS[name], axes, strict=True):
            panel(ax, runs)
            if ax.get_yscale() == "log":
                readable(ax)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        paper = io.BytesIO()
        figure.savefig(paper, format="png")
        plt.close(figure)
    path = folder / f"{name}.png"
    # A palette makes line drawings a third as large.
    with Image.open(paper) as picture:
        picture.convert("RGB").quantize(64).save(path, optimize=True)
    return path
