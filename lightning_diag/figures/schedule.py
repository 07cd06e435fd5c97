"""Learning rates over the steps of a training."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_diag.figures.look import BLUE, INK, ORANGE, RED, label_steps, plain, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (BLUE, ORANGE, "#009e73", "#cc79a7", RED, "#56b4e9")
"""Colours of Okabe and Ito, in an order in which neighbours differ most; styles differ as well."""

STYLES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    "-.",
    (0, (1, 1)),
    (0, (7, 1.5, 1, 1.5, 1, 1.5)),
    "-",
)

MOST_EPOCHS = 60
"""Epochs that get a line each. Our choice: more make the ground grey."""

LONG = 28
"""Letters of a label of which three do not fit side by side."""


class Line(NamedTuple):
    """The learning rate of one group, or of several that have the same."""

    label: str
    """Whose it is; empty where there is nothing to tell apart."""
    lrs: Sequence[float]
    """With which each step is taken; shorter where the schedule ends early."""


def schedule_figure(
    lines: Sequence[Line],
    *,
    steps: int | None = None,
    steps_per_epoch: float | None = None,
    log: bool = False,
    title: str = "Learning rate",
    notes: Sequence[str] = (),
) -> Figure:
    """Draw learning rates, each as it is while a step is taken.

    Args:
        lines: What is drawn.
        steps: Of the training, where lines may end earlier; None for the longest line's.
        steps_per_epoch: Optimizer steps of an epoch, above 0: marks where epochs begin. None for
            no marks.
        log: Whether the axis of the learning rate is logarithmic; what is 0 is not on it.
        title: What is above it.
        notes: Sentences below.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is no step to draw.
    """
    if not any(line.lrs for line in lines):
        raise ValueError("There is nothing to draw: the lines have no steps.")
    figure, axes = sheet(3.0)
    for i, line in enumerate(lines):
        _draw(axes, line, _look(i, len(lines)))
    label_steps(axes)
    axes.set_ylabel("learning rate")
    axes.set_title(title, loc="left", parse_math=False)
    steps = steps or max(len(line.lrs) for line in lines)
    axes.set_xlim(0, max(steps, 1))
    _scale(axes, [lr for line in lines for lr in line.lrs], log=log)
    if steps_per_epoch is not None:
        _epochs(axes, steps, steps_per_epoch)
    note = textwrap.fill(plain(" ".join(notes)), 100)
    if any(line.label for line in lines):
        _legend(figure, axes, len(lines), note)
    elif note:
        figure.supxlabel(note, fontsize="small", parse_math=False)
    return figure


def _draw(axes: Axes, line: Line, look: dict[str, Any]) -> None:
    # An lr holds from the beginning of its step to the beginning of the next one.
    last = list(line.lrs[-1:])
    label = plain(line.label) or "_nolegend_"
    axes.plot(
        range(len(line.lrs) + len(last)),
        [*line.lrs, *last],
        drawstyle="steps-post",
        label=label,
        **look,
    )


def _look(i: int, n: int) -> dict[str, Any]:
    """Return colour and style of a line: apart if they are few, and from dark to light if many."""
    if n <= len(COLOURS):
        return {"color": COLOURS[i], "linestyle": STYLES[i], "linewidth": 1.8}
    from matplotlib import colormaps  # noqa: PLC0415  # an extra

    return {"color": colormaps["cividis"](0.9 * i / (n - 1)), "linewidth": 1.2}


def _scale(axes: Axes, lrs: Sequence[float], *, log: bool) -> None:
    shown = [lr for lr in lrs if math.isfinite(lr) and lr > 0]
    if log and shown:
        axes.set_yscale("log", nonpositive="mask")
        axes.set_ylim(min(shown) / 1.3, max(shown) * 1.3)
        return
    axes.set_ylim(0, 1.05 * max(shown, default=1.0))
    # matplotlib's own would put a common power of ten where epochs are numbered.
    axes.yaxis.set_major_formatter("{x:.3g}")


def _epochs(axes: Axes, steps: int, steps_per_epoch: float) -> None:
    """Mark where epochs begin, and number them above."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415  # an extra

    if steps / steps_per_epoch <= MOST_EPOCHS:
        for epoch in range(1, math.ceil(steps / steps_per_epoch)):
            axes.axvline(
                epoch * steps_per_epoch, color=INK, alpha=0.25, linewidth=0.6, linestyle=":"
            )

    def epochs(at: Any) -> Any:
        return at / steps_per_epoch

    def steps_of(at: Any) -> Any:
        return at * steps_per_epoch

    top = axes.secondary_xaxis("top", functions=(epochs, steps_of))
    top.xaxis.set_major_locator(MaxNLocator(integer=True))
    top.tick_params(labelsize="small", color=INK)
    top.spines["top"].set_visible(False)
    top.set_xlabel("epoch", fontsize="small", loc="right")


def _legend(figure: Figure, axes: Axes, n: int, note: str) -> None:
    """Name the lines below, where nothing is hidden; of many the first, a middle and the last."""
    handles, labels = axes.get_legend_handles_labels()
    if n > len(COLOURS):
        some = sorted({0, n // 2, n - 1})
        handles, labels = [handles[i] for i in some], [labels[i] for i in some]
    legend = figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=2 if any(len(label) > LONG for label in labels) else 3,
        fontsize="small",
        frameon=False,
        handlelength=2.8,
        title=note or None,
        title_fontsize="small",
    )
    for text in (*legend.get_texts(), legend.get_title()):
        text.set_parse_math(False)
