"""What the layers of a recurrent loop leave of a state, from its first step to its last."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from lightning_diag.history import History
from lightning_diag.rules.reading import parameters

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
    """What its calls leave of a state, at most."""
    is_measured: bool
    """Whether that was seen, as the product of the ratios of their standard deviations; else it
    follows from the weights."""


def loops(history: History) -> list[Loop]:
    """Return the recurrent layers of the newest look, and what they leave of a state."""
    sites = history.meta.get("sites", {})
    if not any(place.endswith(_LAST) for place in sites):
        return []
    return _written_out(history, sites) + _cells(history, sites)


def _written_out(history: History, sites: dict[str, Any]) -> list[Loop]:
    """Return the layers that are given what they led to the time before.

    A state begins at zero: the layer's first input does not vary, and all others do. That tells a
    loop from a layer that is used for several parts of the input. Loops with a sigmoid are left
    out: gates keep a state by a way around the layer.
    """
    gains = history.last("activation/variance_gain")
    if not any(place.endswith(_LAST) for place in gains):
        return []
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
            found.append(Loop(module, len(places), kept, is_measured=True))
    return found


def _cells(history: History, sites: dict[str, Any]) -> list[Loop]:
    """Return the cells of plain recurrent networks (`torch.nn.RNNCell`).

    Their slopes are 1 at most, so that a call keeps no more of a state, on average over directions,
    than the root of the mean square singular value of its recurrent weights.
    """
    calls = Counter(site["module"] for site in sites.values() if site["kind"] == "cell")
    norms = history.last("update/weight_norm")
    found = []
    for name, known in parameters(history).items():
        module = known["layer"]
        if calls[module] >= _CALLS and name.endswith("weight_hh") and norms.get(name, 0.0) > 0:
            gain = norms[name] / math.sqrt(known["shape"][0])
            kept = gain ** (calls[module] - 1)
            found.append(Loop(module, calls[module], kept, is_measured=False))
    return found
