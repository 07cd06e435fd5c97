"""Which metrics get a heat map, and how to read each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lightning_diag.report.scale import Scale, fractions, magnitudes, update_ratios
from lightning_diag.report.words import number, percent


@dataclass(frozen=True)
class Kind:
    """One kind of heat map."""

    metric: str
    """What is shown."""
    title: str
    """Its name for people."""
    guide: str
    """How to read it."""
    write: Callable[[float], str]
    """Writes one of its numbers."""
    scale: Callable[[Iterable[float]], Scale]
    """Makes the colours for its numbers."""
    weights_only: bool = False
    """Whether parameters of one dimension are left out."""


KINDS = (
    Kind(
        "gradient/layer_norm",
        "Gradient norm by layer",
        "The input is at the top. Rows of a healthy net look much alike; rows that fade towards "
        "the top get no gradient (vanishing), columns that light up are explosions.",
        number,
        magnitudes,
    ),
    Kind(
        "update/ratio",
        "Update ratio by weight",
        "How far one step moves a weight, relative to its size. About 1e-3 is usual (grey); less "
        "hardly learns (blue), more overwrites what was learnt (orange).",
        number,
        lambda _: update_ratios(),
        weights_only=True,
    ),
    Kind(
        "dead_relu/fraction",
        "Dead ReLU units",
        "Share of units that no sample of the window switched on. No gradient reaches the weights "
        "of a dead unit, so it rarely comes back.",
        percent,
        lambda _: fractions(),
    ),
    Kind(
        "activation/saturated_fraction",
        "Saturated activations",
        "Share of inputs at which the function is flat, so that hardly any gradient passes.",
        percent,
        lambda _: fractions(),
    ),
    Kind(
        "activation/std",
        "Standard deviation of activations",
        "A row much darker than the one above it says that the signal is lost on its way; a much "
        "lighter one, that it is blown up.",
        number,
        magnitudes,
    ),
)
"""In the order of the page: from what is learnt to how the signal fares."""
