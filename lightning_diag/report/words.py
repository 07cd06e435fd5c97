"""How numbers, names and severities are written, the same way on the terminal and in the page."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_diag.finding import Evidence, Finding

Tone = Literal["bad", "suspect", "note", "healthy", "unknown"]
"""A finding's severity, or what is said of a run without findings."""


@dataclass(frozen=True)
class Sign:
    """How a tone is marked: by shape and by word, so that colour is never needed."""

    mark: str
    """One character, for terminals and browsers that have it."""
    ascii: str
    """The same for terminals that know ASCII only."""
    word: str
    """What the mark means."""
    meaning: str
    """What it means for the run, as the start of a sentence."""
    style: str
    """Terminal style."""


SIGNS: dict[Tone, Sign] = {
    "bad": Sign("✖", "x", "BAD", "Training is broken", "bold red"),
    "suspect": Sign("▲", "!", "SUSPECT", "Worth a look", "bold yellow"),
    "note": Sign("●", "i", "NOTE", "Good to know", "bold blue"),
    "healthy": Sign("✔", "+", "HEALTHY", "No problem found", "bold green"),
    "unknown": Sign("○", "?", "NOT OBSERVED", "Nothing can be said", "bold"),
}

_EXPONENT = re.compile(r"(?<=\d)e-(?=\d)")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    r"""Make text from a model or a file harmless to print.

    A name may hold anything: escape sequences would steer the terminal, marks of writing
    direction would reorder the line, lone surrogates cannot be encoded.

    Example:
        >>> plain("net\x1b[2J")
        'net\\x1b[2J'
    """

    def escape(match: re.Match[str]) -> str:
        return match.group().encode("unicode_escape").decode("ascii")

    return _CONTROL.sub(escape, text)


def spans(text: str) -> list[tuple[bool, str]]:
    """Split text at backticks, which rules put around names; a lone one is a letter.

    Returns:
        Pieces with whether each is a name.

    Example:
        >>> spans("Use `torch.nn.ReLU` here.")
        [(False, 'Use '), (True, 'torch.nn.ReLU'), (False, ' here.')]
    """
    pieces = re.split("`([^`]+)`", text)
    return [(i % 2 == 1, piece) for i, piece in enumerate(pieces) if piece]


def unbroken(text: str) -> str:
    r"""Keep a line from ending within a number.

    Example:
        >>> unbroken("7.44e-7").encode("ascii", "backslashreplace")
        b'7.44e\\u20117'
    """
    return _EXPONENT.sub("e\u2011", text)


def number(value: float) -> str:
    """Write a number with three significant digits, as short as it can be read.

    Example:
        >>> [number(v) for v in (0.0, 0.5, 1234.4, 0.00012345, float("nan"))]
        ['0', '0.5', '1,234', '1.23e-4', 'NaN']
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == 0 or 0.01 <= abs(value) < 1e6:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def percent(fraction: float) -> str:
    """Write a share.

    Example:
        >>> percent(0.4), percent(0.0042), percent(0.00001)
        ('40%', '0.4%', '< 0.1%')
    """
    if not math.isfinite(fraction):
        return number(fraction)
    if 0 < fraction < 0.001:
        return "< 0.1%"
    text = f"{100 * fraction:.0f}" if fraction >= 0.0995 else f"{100 * fraction:.1f}"
    return f"{text.removesuffix('.0')}%"


def count(n: int, noun: str) -> str:
    """Write a count with its noun.

    Example:
        >>> count(1, "step"), count(1200, "step")
        ('1 step', '1,200 steps')
    """
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def listing(names: Sequence[str], most: int = 3) -> str:
    """Write names, and how many more there are.

    Example:
        >>> listing(["a", "b", "c", "d"], most=2)
        'a, b and 2 more'
    """
    shown = [plain(name) for name in names[:most]]
    if len(names) > most:
        return f"{', '.join(shown)} and {len(names) - most:,} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def steps(first: int, last: int) -> str:
    """Write a range of steps.

    Example:
        >>> steps(3, 3), steps(0, 1200)
        ('step 3', 'steps 0 to 1,200')
    """
    return f"step {first:,}" if first == last else f"steps {first:,} to {last:,}"


def span(first: int, last: int) -> str:
    """Write a range of steps as short as it can be.

    Example:
        >>> span(3, 3), span(0, 1200)
        ('3', '0–1,200')
    """
    return f"{first:,}" if first == last else f"{first:,}–{last:,}"


def period(finding: Finding) -> str:
    """Write when a finding was seen, and whether it has passed."""
    when = steps(*finding.steps)
    return when if finding.until is None else f"{when}, passed"


def where(finding: Finding, most: int = 3) -> str:
    """Write the places of a finding; without any, it is about the whole model."""
    return listing(finding.places, most) if finding.places else "the whole model"


def origin(finding: Finding) -> list[tuple[str, str]]:
    """Return labelled lines on where a finding comes from, and how sure that is.

    Example:
        >>> found = Finding(
        ...     "dead-relu", "bad", "Dead.", "Mend.", (), (20, 80), Evidence(0.4, 0.25, 5000, 12),
        ...     caused_by="exploding-gradient", confidence="medium", because=("It began earlier.",))
        >>> origin(found)
        [('Caused by', 'exploding-gradient (confidence medium)'), ('Because', 'It began earlier.')]
    """
    told = [event.text for event in finding.before if event.text not in finding.because]
    rows = [("Just before", " ".join(told))] if told else []
    if finding.caused_by:
        sure = f" (confidence {finding.confidence})" if finding.confidence else ""
        rows.append(("Caused by", f"{finding.caused_by}{sure}"))
        rows.append(("Because", " ".join(finding.because)))
    if finding.rivals:
        rows.append(("Or by", listing(finding.rivals)))
        rows.append(("To tell", finding.experiment))
    return [(label, plain(text)) for label, text in rows if text]


def evidence(values: Evidence) -> str:
    """Write the numbers behind a finding.

    Example:
        >>> evidence(Evidence(value=0.4, threshold=0.25, window=5000, observations=12))
        'measured 0.4, threshold 0.25, window 5,000, seen on 12 watched steps'
    """
    return (
        f"measured {number(values.value)}, threshold {number(values.threshold)}, "
        f"window {values.window:,}, seen on {count(values.observations, 'watched step')}"
    )
