"""What the layers of a recurrent loop leave of a state, from its first step to its last."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_diag.history import History

_CALLS = 8
"""Calls of one layer in a forward pass from which on they are a loop (our choice)."""
_LAST = f"#{_CALLS - 1}"


@dataclass(frozen=True)
class Loop:
    """A layer that is called again and again, each time with what it led to the time before."""

    module: str
    """The layer."""
    calls: int
    """How often it is called in a forward pass, the first time with zeros."""
    kept: float
    """What its calls leave of a state: the product of the ratios of their standard deviations."""


def loops(history: History) -> list[Loop]:
    """Return the recurrent layers of the newest look, and what they leave of a state.

    A state begins at zero: the layer's first input does not vary, and all others do. That tells a
    loop from a layer that is used for several parts of the input. Loops with a sigmoid are left
    out: gates keep a state by a way around the layer.
    """
    gains = history.last("activation/variance_gain")
    if not any(place.endswith(_LAST) for place in gains):
        return []
    sites = history.meta.get("sites", {})
    calls: dict[str, list[str]] = {}
    gated = 0
    for place, site in sites.items():
        if site["kind"] == "layer":
            calls.setdefault(site["module"], []).append(place)
        elif site["kind"] in ("sigmoid", "hard"):
            gated += 1
    if gated >= _CALLS or all(len(places) < _CALLS for places in calls.values()):
        return []
    found = []
    for module, places in calls.items():
        known = [gains[place] for place in places[1:] if place in gains]
        if len(places) < _CALLS or places[0] in gains or len(known) < len(places) - 1:
            continue
        if all(0 < gain < math.inf for gain in known):
            kept = math.exp(0.5 * math.fsum(map(math.log, known)))
            found.append(Loop(module, len(places), kept))
    return found
