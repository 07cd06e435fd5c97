"""Single curves: gradient totals, noise scale, cost of watching, and what the run logged itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from lightning_diag.history import History
from lightning_diag.report.payload.numbers import line

MOST_POINTS = 600
"""Points of a curve. Our choice: these are small pictures."""
MOST_LOGGED = 40
"""Curves that the run logged itself. Our choice."""


@dataclass(frozen=True)
class Kind:
    """One curve."""

    metric: str
    """What is shown."""
    title: str
    """Its name for people."""
    unit: str = ""
    """What its numbers are; empty for plain ones."""
    scale: Literal["log", "linear"] = "linear"
    """Which scale shows it best."""


KINDS = (
    Kind("gradient/total_norm", "Gradient norm of the whole model", "L2 norm", "log"),
    Kind("gradient/clipped_norm", "Gradient norm after clipping", "L2 norm", "log"),
    Kind("gradient/clip_coefficient", "What clipping leaves of the gradient", "share"),
    Kind("gradient/depth_ratio", "Gradient of the first layer over the last", "", "log"),
    Kind("gradient/noise_scale", "Gradient noise scale", "samples", "log"),
    Kind("noise_scale/samples", "Gradient noise scale, of whole gradients", "samples", "log"),
    Kind("gradient/cosine", "Likeness of neighbouring gradients", "cosine"),
    Kind("loss/noise", "Noise of the loss around its trend", "share"),
    Kind("output/accuracy", "Accuracy of the training steps", "share"),
    Kind("filter/smoothness", "Smoothness of the first layer's filters", "likeness of neighbours"),
    Kind("example/worst_loss", "Largest loss of a sample", "", "log"),
    Kind("data/wait_fraction", "Time spent waiting for data", "share"),
    Kind("overhead/fraction", "Cost of watching", "share"),
    Kind("overhead/interval_steps", "Steps between two looks", "steps"),
    Kind("step_time/plain_seconds", "Length of a step", "seconds"),
    Kind("step_time/watched_seconds", "Length of a watched step", "seconds"),
    Kind("amp/scale", "Loss scale of mixed precision", "", "log"),
)
"""In the order of the page, behind what the run logged itself."""
_IDLE = ("gradient/clipped_norm", "gradient/clip_coefficient")
"""What says nothing while nothing is clipped."""

_LOGGED = ("metric/", "validation/")
"""What begins the names of metrics that the run logged itself."""


def curves(history: History) -> dict[str, dict[str, Any]]:
    """Return the curves that the history has numbers for, by metric, and place if it has one."""
    idle = _IDLE if _clips_nothing(history) else ()
    kinds = [kind for kind in KINDS if kind.metric not in idle]
    return {
        f"{kind.metric}@{place}" if place else kind.metric: {
            "title": f"{kind.title} ({place})" if place else kind.title,
            "unit": kind.unit,
            "scale": kind.scale,
            **line(*found, MOST_POINTS),
        }
        for kind in (*_logged(history), *kinds)
        for place in history.places(kind.metric)[:MOST_LOGGED]
        if (found := history.series(kind.metric, place)).steps
    }


def _clips_nothing(history: History) -> bool:
    """Return whether no gradient was clipped, so that curves of clipping would repeat others."""
    return all(left == 1 for left in history.series("gradient/clip_coefficient").values)


def _logged(history: History) -> Iterator[Kind]:
    names = [name for name in history.metrics() if name.startswith(_LOGGED)]
    for name in names[:MOST_LOGGED]:
        stage, _, own = name.partition("/")
        yield Kind(name, f"{own} (validation)" if stage == "validation" else own)


def left_out(history: History) -> int:
    """Return how many curves that the run logged itself are not shown."""
    names = [name for name in history.metrics() if name.startswith(_LOGGED)]
    return max(0, len(names) - MOST_LOGGED)
