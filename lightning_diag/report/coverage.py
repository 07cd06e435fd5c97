"""What a verdict rests on: what was watched, what was not, and what watching cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby

from lightning_diag.history import History
from lightning_diag.report.words import count, percent


@dataclass(frozen=True)
class Area:
    """One thing that can be watched, and how much of it was."""

    name: str
    """What was looked at."""
    places: str
    """At how many places; empty when it has none, or was not observed."""
    watched: int
    """Steps with a number."""
    reason: str = ""
    """Why nothing was observed, when that is known."""
    expected: bool = True
    """Whether any training has it; many have no batch norm."""


_AREAS = (
    Area("gradients", "parameter", 0),
    Area("weight updates", "parameter", 0),
    Area("weights", "parameter", 0, expected=False),
    Area("embeddings", "table", 0, expected=False),
    Area("activations", "call site", 0),
    Area("saturation", "call site", 0),
    Area("dead ReLU units", "call site", 0),
    Area("batch norm", "call site", 0, expected=False),
    Area("outputs", "loss call", 0, "no call of a loss function was seen"),
    Area("inputs", "layer call", 0, expected=False),
    Area("data", "tensor", 0, expected=False),
    Area("validation", "metric", 0, expected=False),
    Area("learning rate", "parameter group", 0),
    Area("loss", "", 0),
    Area("gradient noise", "", 0, expected=False),
)
"""What can be watched, with the noun of its places, and why it is not where that needs no look."""
_METRICS = {
    "gradients": "gradient/norm",
    "weight updates": "update/ratio",
    "weights": "weight/std",
    "embeddings": "embedding/mean_cosine",
    "activations": "activation/std",
    "saturation": "activation/saturated_fraction",
    "dead ReLU units": "dead_relu/fraction",
    "batch norm": "batch_norm/mean_gap",
    "outputs": "output/loss",
    "inputs": "input/mean",
    "data": "data/mean",
    "learning rate": "lr/value",
    "loss": "loss/train",
    "gradient noise": "gradient/cosine",
}
"""The metric that an area is known by."""

_KINDS = {
    "saturation": ({"sigmoid", "tanh", "hard", "softmax", "smooth"}, "no saturating function"),
    "dead ReLU units": ({"relu"}, "no ReLU"),
}


def areas(history: History) -> list[Area]:
    """Return everything that the monitors of this package watch, with how much of it was seen."""
    return [_area(history, area) for area in _AREAS]


def _area(history: History, area: Area) -> Area:
    if area.name in _METRICS:
        seen = [(_METRICS[area.name], place) for place in history.places(_METRICS[area.name])]
    else:
        seen = [(name, "") for name in history.metrics() if name.startswith(area.name + "/")]
    metrics = dict.fromkeys(metric for metric, _ in seen)
    watched = max((_steps(history, metric) for metric in metrics), default=0)
    if not watched:
        return replace(area, places="", reason=area.reason or _reason(history, area.name))
    places = count(len(seen), area.places) if area.places else ""
    return replace(area, places=places, watched=watched, reason="")


def _steps(history: History, metric: str) -> int:
    """Return the records that hold a metric; of what no record holds, the steps of a place."""
    records = sum(1 for _ in history.columns(metric))
    places = () if records else history.places(metric)
    return max((len(history.series(metric, place).steps) for place in places), default=records)


def _reason(history: History, name: str) -> str:
    """Say why an area has no number, as far as the model's call sites tell."""
    sites = history.meta.get("sites")
    if name not in _KINDS or not sites:
        return ""
    kinds, none = _KINDS[name]
    if any(site.get("kind") in kinds for site in sites.values()):
        return "called, but too few samples were seen to judge"
    return f"the model calls {none}"


def watched(history: History) -> str:
    """Name the areas that were watched; neighbours of as many places share their number.

    A single place needs none.
    """
    seen = [area for area in areas(history) if area.watched]
    groups = []
    for places, group in groupby(seen, key=lambda area: _several(area.places)):
        names = [area.name for area in group]
        if not places:
            groups += names
        elif len(names) == 1:
            groups.append(f"{names[0]} ({places})")
        else:
            groups.append(f"{', '.join(names[:-1])} and {names[-1]} ({places})")
    return ", ".join(groups) or "nothing"


def _several(places: str) -> str:
    return "" if places.startswith("1 ") else places


def not_observed(history: History) -> str:
    """Name the areas that were not, of those that any training has, with the reason."""
    missed = [area for area in areas(history) if area.expected and not area.watched]
    return ", ".join(f"{a.name} ({a.reason})" if a.reason else a.name for a in missed)


def not_judged(history: History) -> dict[str, str]:
    """Return the rules that could not judge the run, and why, as far as it was stored."""
    return dict(history.meta.get("not_judged") or {})


def muted(history: History) -> dict[str, str]:
    """Return what the user has muted, and what there would have been to say of it."""
    return dict(history.meta.get("muted") or {})


def overhead(history: History) -> str:
    """Say what watching cost, as the run measured it."""
    cost = history.last("overhead/fraction").get("")
    if cost is None:
        return "not measured"
    text = f"{percent(cost)} of the training time" if cost > 0 else "too small to measure"
    plain = history.last("step_time/plain_seconds").get("")
    slow = history.last("step_time/watched_seconds").get("")
    if plain is None or slow is None:
        return text
    return f"{text}; a watched step took {1000 * slow:.3g} ms, any other {1000 * plain:.3g} ms"
