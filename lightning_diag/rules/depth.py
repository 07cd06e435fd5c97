"""How gradients and updates run along the depth of a network."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_diag.history import History
from lightning_diag.rules.reading import centre, depth_profile, size

RECORDS = 8
"""Watched steps behind a profile: its medians are then untouched by three odd batches."""
_LAYERS = 3
"""Fewer layers have no depth to speak of."""
_SCREEN = 20.0
"""A profile flatter than this in the newest record is not worth a closer look."""


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


def gradient_by_depth(history: History, records: int = RECORDS) -> list[Profile]:
    """Return a profile for each optimizer with layers of clearly different gradients.

    Medians over the newest `records` watched steps; optimizers with fewer of them, or with fewer
    than three layers, have none. Embeddings and other sparse gradients are left out.
    """
    newest = history.last("gradient/norm")
    sparse = history.last("gradient/zero_fraction")
    profiles = []
    for chain in depth_profile(history):
        names = [name for name in chain if name in newest and sparse.get(name, 0.0) < 0.9]
        rms = [newest[name] / math.sqrt(size(history, name)) for name in names]
        if len(names) < _LAYERS or not _is_uneven(rms[0], max(rms), min(rms[-2:])):
            continue
        norms = [seen for seen in history.window("gradient/norm", records) if names[0] in seen[1]]
        ratios = history.window("update/ratio", records)
        if len(norms) < records:
            continue
        gradient = [
            centre(seen.get(name, math.nan) for _, seen in norms) / math.sqrt(size(history, name))
            for name in names
        ]
        ratio = [
            centre(seen[name] for _, seen in ratios if name in seen)
            if any(name in seen for _, seen in ratios)
            else math.nan
            for name in names
        ]
        profiles.append(Profile(names, gradient, ratio, (norms[0][0], norms[-1][0]), len(norms)))
    return profiles


def _is_uneven(first: float, largest: float, last: float) -> bool:
    return first * _SCREEN < largest or first > last * _SCREEN
