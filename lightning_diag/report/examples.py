"""What is said of the samples that are shown: which list they are on, and why (W13)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from lightning_diag.history import History
from lightning_diag.report.words import count, number, percent, plain

KINDS = {
    "example/suspicious": "suspicious label",
    "example/never_learnt": "never learnt",
    "example/forgotten": "forgotten",
    "example/mistakes": "confident mistake",
    "example/worst": "highest loss",
    "example/by_class": "highest loss of its class",
    "example/mistakes_validation": "confident mistake",
    "example/worst_validation": "highest loss",
    "example/by_class_validation": "highest loss of its class",
}
"""Name of each list in the history, in the order in which they are shown, to what is said of who is
on it."""


def why(name: str, example: Mapping[str, Any]) -> str:
    """Say in a sentence why a sample is on a list; nothing where its numbers say it all.

    Example:
        >>> one = {"margin": -0.88, "looks": 10, "learnt": False, "forgotten": 0}
        >>> why("example/suspicious", one)
        'Another class was likelier by 88% over 10 looks; never right.'
        >>> why("example/forgotten", {**one, "forgotten": 4})
        'Answered right and then wrong again 4 times in 10 looks.'
    """
    margin, looks = example.get("margin"), example.get("looks")
    if not isinstance(margin, int | float) or not isinstance(looks, int):
        return ""
    seen = f"over {count(looks, 'look')}"
    if name == "example/suspicious":
        told = "right at times" if example.get("learnt") else "never right"
        return f"Another class was likelier by {percent(-margin)} {seen}; {told}."
    if name == "example/never_learnt":
        return f"Answered wrongly at each of {count(looks, 'look')}."
    times = example.get("forgotten")
    if name == "example/forgotten" and isinstance(times, int):
        return f"Answered right and then wrong again {count(times, 'time')} in {looks:,} looks."
    return ""


class Suspicious(NamedTuple):
    """The labels of a run that are suspicious."""

    found: int
    samples: int
    """That were followed."""
    examples: list[Mapping[str, Any]]
    """Some of them, the most suspicious first."""


def suspicious(history: History) -> Suspicious | None:
    """Return the labels that are suspicious, None where there are none, or none were looked for."""
    for looks in history.shown("example/suspicious").values():
        seen = looks[-1][1]
        listed = seen.get("examples") if isinstance(seen, Mapping) else None
        known = [one for one in _listed(listed) if isinstance(one, Mapping)]
        if known:
            found, samples = (seen.get(key) for key in ("found", "samples"))
            return Suspicious(
                found if isinstance(found, int) else len(known),
                samples if isinstance(samples, int) else 0,
                known,
            )
    return None


def _listed(value: Any) -> list[Any]:
    """Return a list; a file may hold anything there."""
    return value if isinstance(value, list) else []


def suspicious_lines(history: History, most: int = 5) -> list[str]:
    """Return lines for a terminal on the labels that are suspicious, [] without any."""
    found = suspicious(history)
    if found is None:
        return []
    of_all = f" of {found.samples:,}" if found.samples else ""
    lines = [f"{found.found:,}{of_all} labels. Look at these samples first:"]
    lines += [_line(one) for one in found.examples[:most]]
    if found.found > most:
        lines.append(f"and {found.found - most:,} more: `WorstExamples.suspicious` has all of them")
    return lines


def _line(one: Mapping[str, Any]) -> str:
    name = one.get("name")
    file = f" ({plain(name)})" if isinstance(name, str) else ""
    sure = one.get("probability")
    chance = f", {percent(sure)} sure" if isinstance(sure, int | float) else ""
    return (
        f"{_shown(one.get('index'))}{file}: labelled {_shown(one.get('target'))}, the network says "
        f"{_shown(one.get('prediction'))}{chance}. {why('example/suspicious', one)}"
    )


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    return "unknown" if value is None else plain(str(value))
