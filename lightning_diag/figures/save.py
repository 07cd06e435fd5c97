"""All figures of a run as files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lightning_diag.figures.heat import heat_figure
from lightning_diag.figures.look import LOOKS
from lightning_diag.figures.loss import loss_figure
from lightning_diag.figures.profile import profile_figure
from lightning_diag.history import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 200
"""Pixels an inch: sharp in print at the figure's own size."""


def save_figures(
    history: History, folder: str | os.PathLike[str], *, kind: Literal["png", "svg"] = "png"
) -> list[Path]:
    """Write the loss, and a heat map and a profile of each metric by layer, into a folder.

    The same history gives the same files, byte for byte, with the same matplotlib.

    Returns:
        The files, in the order above; those without numbers in the history are left out.

    Raises:
        ImportError: If matplotlib is not installed.
        OSError: If the folder cannot be written.
        ValueError: If `kind` is none of these.
    """
    if kind not in ("png", "svg"):
        raise ValueError(f"`kind` must be 'png' or 'svg', got {kind!r}.")
    target = Path(folder)
    written = []
    if history.series("loss/train").steps:
        written.append(_save(loss_figure(history), target / f"loss.{kind}"))
    for metric in LOOKS:
        if any(history.series(metric, place).steps for place in history.places(metric)):
            name = metric.replace("/", "-").replace("_", "-")
            for sort, draw in (("map", heat_figure), ("profile", profile_figure)):
                written.append(_save(draw(history, metric), target / f"{name}-{sort}.{kind}"))
    return written


def _save(figure: Figure, path: Path) -> Path:
    import matplotlib as mpl  # noqa: PLC0415  # an extra

    path.parent.mkdir(parents=True, exist_ok=True)
    # Otherwise an SVG holds the time, and identifiers that differ from one writing to the next.
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    with mpl.rc_context({"svg.hashsalt": "lightning_diag"}):
        figure.savefig(path, dpi=DPI, metadata=metadata)
    return path
