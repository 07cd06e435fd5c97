"""What a verdict rests on: what was watched, what was not, and what watching cost."""

from __future__ import annotations

from dataclasses import dataclass

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


_AREAS = (
    ("gradients", "gradient/norm", "parameter"),
    ("weight updates", "update/ratio", "parameter"),
    ("activations", "activation/std", "call site"),
    ("saturation", "activation/saturated_fraction", "call site"),
    ("dead ReLU units", "dead_relu/fraction", "call site"),
    ("loss", "loss/train", ""),
    ("learning rate", "lr/value", "parameter group"),
)

_KINDS = {
    "saturation": ({"sigmoid", "tanh", "hard", "softmax", "smooth"}, "no saturating function"),
    "dead ReLU units": ({"relu"}, "no ReLU"),
}


def areas(history: History) -> list[Area]:
    """Return everything that the monitors of this package watch, with how much of it was seen."""
    return [_area(history, *row) for row in _AREAS]


def _area(history: History, name: str, metric: str, noun: str) -> Area:
    places = history.places(metric)
    watched = max((len(history.series(metric, place).steps) for place in places), default=0)
    if not watched:
        return Area(name, "", 0, _reason(history, name))
    return Area(name, count(len(places), noun) if noun else "", watched)


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
    """Name the areas that were watched."""
    seen = [area for area in areas(history) if area.watched]
    return ", ".join(f"{a.name} ({a.places})" if a.places else a.name for a in seen) or "nothing"


def not_observed(history: History) -> str:
    """Name the areas that were not, with the reason; empty when all were."""
    missed = [area for area in areas(history) if not area.watched]
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
