"""Which rules judge a run: at which thresholds, and what of them is muted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T", bound=Any)
"""A rule, or a check: a frozen dataclass with a code, whose fields are thresholds."""


class Mute(NamedTuple):
    """One thing that the user does not want to hear of."""

    code: str
    """Code of a rule."""
    place: str
    """Pattern of places, with ``*``, ``?`` and ``[...]``; empty for the whole rule."""

    @classmethod
    def parse(cls, text: str, codes: Sequence[str]) -> Mute:
        """Read ``code`` or ``code:pattern``.

        Example:
            >>> Mute.parse("dead-relu:net.3*", ["dead-relu"])
            Mute(code='dead-relu', place='net.3*')
        """
        code, colon, place = text.partition(":")
        if code not in codes:
            message = f"`mute` must begin with the code of a rule, got {text!r}" + near(code, codes)
            raise ValueError(message)
        if colon and not place:
            message = "leave the colon out to mute the whole rule."
            raise ValueError(f"`mute` must name a place behind the colon, got {text!r}: {message}")
        return cls(code, place)

    def __str__(self) -> str:
        return f"{self.code}:{self.place}" if self.place else self.code


def near(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that names the known name nearest to a wrong one.

    Example:
        >>> near("dead-rellu", ["dead-relu", "non-finite"])
        ": did you mean 'dead-relu'?"
    """
    found = get_close_matches(name, list(known), n=1, cutoff=0.0)
    return f": did you mean {found[0]!r}?" if found else "."


def at_thresholds(judges: Sequence[T], thresholds: Mapping[str, Mapping[str, float]]) -> list[T]:
    """Return rules, or checks, with some of their thresholds set anew.

    Args:
        judges: Rules and checks. Where two have one code, each gets the thresholds that it has.
        thresholds: Code to name of a threshold to its value.

    Raises:
        ValueError: If there is no such code or threshold, or if the value makes no sense.
        TypeError: If a value is no number.
    """
    known: dict[str, list[str]] = {}
    for judge in judges:
        known.setdefault(judge.code, []).extend(field.name for field in fields(judge))
    for code, values in thresholds.items():
        if code not in known:
            message = f"`thresholds` must name codes of rules, got {code!r}{near(code, known)}"
            raise ValueError(message)
        for name in values:
            if name not in known[code]:
                message = f"`thresholds` of {code!r} must be of its own, got {name!r}"
                raise ValueError(message + near(name, known[code]))
    return [
        _changed(judge, thresholds[judge.code]) if judge.code in thresholds else judge
        for judge in judges
    ]


def _changed(judge: T, values: Mapping[str, float]) -> T:
    defaults = {field.name: field.default for field in fields(judge)}
    changes: dict[str, float] = {}
    for name, value in values.items():
        if name not in defaults:  # of the rule or check of the same code
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"`{name}` of {judge.code!r} must be a number, got {value!r}.")
        changes[name] = _as_default(judge.code, name, value, defaults[name])
    try:
        return replace(judge, **changes)
    except ValueError as error:
        raise ValueError(f"`thresholds` of {judge.code!r}: {error}") from None


def _as_default(code: str, name: str, value: float, default: object) -> float:
    """Return a count as a whole number: files do not tell 5 from 5.0."""
    if default is MISSING or isinstance(default, float) or isinstance(value, int):
        return value
    if not value.is_integer():
        raise ValueError(f"`thresholds` of {code!r}: `{name}` must be whole, got {value!r}.")
    return int(value)
