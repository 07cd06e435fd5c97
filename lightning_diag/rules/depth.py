"""How gradients and updates run along the depth of a network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice, pairwise, repeat
from typing import Any

from lightning_diag.history import History
from lightning_diag.rules.reading import (
    centre,
    depth_profile,
    has_several_optimizers,
    is_slow,
    size,
    travel,
    weights,
)
from lightning_diag.rules.snapshot import at_once, of_model

RECORDS = 8
"""Watched steps behind a profile: its medians are then untouched by three odd batches."""
_LAYERS = 3
"""Fewer layers have no depth to speak of."""
_SCREEN = 20.0
"""A profile flatter than this in the newest record is not worth a closer look."""
_LEVEL = 16
"""Losses behind one level, whose median is off by a third of the batch noise."""
_STILL = 0.05
"""Share of a level that a loss which stands still does not lose (our choice: healthy deep networks
lost more within the 48 steps that the rules look at, or had hardly moved their weights)."""
_MOST = 0.6
"""Share of the whole fall, in orders of magnitude, that one layer may make up where all layers take
their part (our choice: more is that layer's own)."""


@dataclass(frozen=True)
class Profile:
    """Gradients and updates of the layers of one optimizer, from input to output."""

    names: list[str]
    """Weights of the layers."""
    gradient: list[float]
    """RMS gradient of each: the norm over the root of the number of elements."""
    ratio: list[float]
    """Update ratio of each; NaN where it was not observed."""
    steps: tuple[int, int]
    """First and last step that the medians are taken over."""
    records: int
    """How many watched steps those are."""

    def gradient_of(self, name: str) -> float:
        """Return the RMS gradient of a layer."""
        return self.gradient[self.names.index(name)]

    @property
    def is_steady(self) -> bool:
        """Whether the gradient falls at each layer on its way to the input, and at none most.

        That is the work of depth, and not of one layer that differs from the others.
        """
        path = self.gradient[: max(range(len(self.names)), key=self.gradient.__getitem__) + 1]
        if len(path) < _LAYERS or not all(0 < a < b for a, b in pairwise(path)):
            return False
        falls = [math.log(b / a) for a, b in pairwise(path)]
        return max(falls) <= _MOST * sum(falls)


def gradient_by_depth(history: History, records: int = RECORDS) -> list[Profile]:
    """Return a profile for each optimizer with layers of clearly different gradients.

    Medians over the newest `records` watched steps; optimizers with fewer of them, or with fewer
    than three layers, have none. Embeddings and other sparse gradients are left out.
    """
    return at_once(history, f"gradient_by_depth {records}", lambda: _profiles(history, records))


def _profiles(history: History, records: int) -> list[Profile]:
    newest = history.last("gradient/norm")
    sparse = history.last("gradient/zero_fraction")
    sizes = of_model(history, "roots", lambda: _roots(history))
    profiles = []
    for chain in depth_profile(history):
        names = [name for name in chain if name in newest and sparse.get(name, 0.0) < 0.9]
        roots = [sizes[name] for name in names]
        rms = [newest[name] / root for name, root in zip(names, roots, strict=True)]
        if len(names) < _LAYERS or not _is_uneven(rms[0], max(rms), min(rms[-2:])):
            continue
        norms = [look for look in history.window("gradient/norm", records) if names[0] in look[1]]
        ratios = history.window("update/ratio", records)
        if len(norms) < records:
            continue
        gradient = [
            middle / root
            for middle, root in zip(_medians(norms, names, absent=math.inf), roots, strict=True)
        ]
        ratio = _medians(ratios, names)
        profiles.append(Profile(names, gradient, ratio, (norms[0][0], norms[-1][0]), len(norms)))
    return profiles


def _roots(history: History) -> dict[str, float]:
    """Return the root of the number of elements of each layer's weight."""
    names = (name for chain in depth_profile(history) for name in chain)
    return {name: math.sqrt(size(history, name)) for name in names}


def _medians(
    window: list[tuple[int, dict[str, float]]], names: list[str], *, absent: float | None = None
) -> list[float]:
    """Return the median over a window for each name; NaN counts as infinite.

    What is not there counts as `absent`, or not at all; NaN for a name that is never there.
    """
    rows: list[list[Any]] = [list(map(values.get, names)) for _, values in window]
    if not rows or any(None in row or math.isnan(sum(row)) for row in rows):
        columns = zip(*rows, strict=True) if rows else repeat((), len(names))
        known = ([absent if v is None else v for v in column] for column in columns)
        seen = ([value for value in values if value is not None] for values in known)
        return [centre(values) if values else math.nan for values in seen]
    # Nearly always, and several times as fast.
    half, is_odd = divmod(len(rows), 2)
    ordered = map(sorted, zip(*rows, strict=True))
    return [v[half] if is_odd else (v[half - 1] + v[half]) / 2 for v in ordered]


def _is_uneven(first: float, largest: float, last: float) -> bool:
    return first * _SCREEN < largest or first > last * _SCREEN


def stands_still(history: History, steps: int) -> bool:
    """Return whether the loss has not halved, and has not fallen in the newest `steps` steps.

    Unlike a comparison with the first loss this does not take the way from a first guess to the
    best constant for progress.
    """
    if has_several_optimizers(history) or not is_slow(history):
        return False
    losses = [values[""] for _, values in history.window("loss/train", steps)]
    if len(losses) < steps:
        return False
    before, now = centre(losses[:_LEVEL]), centre(losses[-_LEVEL:])
    return 0 < before < math.inf and now > (1 - _STILL) * before


def moved(history: History) -> float:
    """Return how many times its own size the weight that moved most has moved since the start.

    Weights that start at zero are left out: at first each step changes them by their own size.
    """
    first = next(islice(history.records(), 1)).values
    names = first.get("update/ratio", {}).keys() & set(weights(history))
    return max((travel(history.series("update/ratio", name), 0.0) for name in names), default=0.0)
