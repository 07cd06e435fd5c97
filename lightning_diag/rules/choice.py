"""Which rules judge a run: at which thresholds, and what of them is muted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from difflib import get_close_matches
from typing import NamedTuple

from lightning_diag.rules.base import Rule


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


def at_thresholds(
    rules: Sequence[Rule], thresholds: Mapping[str, Mapping[str, float]]
) -> list[Rule]:
    """Return rules with some of their thresholds set anew.

    Args:
        rules: The rules.
        thresholds: Code of a rule to name of a threshold to its value.

    Raises:
        ValueError: If there is no such rule or threshold, or if the value makes no sense.
    """
    codes = [rule.code for rule in rules]
    for code in thresholds:
        if code not in codes:
            raise ValueError(
                f"`thresholds` must name codes of rules, got {code!r}{near(code, codes)}"
            )
    return [
        _changed(rule, thresholds[rule.code]) if rule.code in thresholds else rule for rule in rules
    ]


def _changed(rule: Rule, values: Mapping[str, float]) -> Rule:
    defaults = {field.name: field.default for field in fields(rule)}
    changes: dict[str, float] = {}
    for name, value in values.items():
        if name not in defaults:
            raise ValueError(
                f"`thresholds` of {rule.code!r} must be of its own, got {name!r}"
                + near(name, defaults)
            )
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"`{name}` of {rule.code!r} must be a number, got {value!r}.")
        changes[name] = _as_default(rule.code, name, value, defaults[name])
    try:
        return replace(rule, **changes)
    except ValueError as error:
        raise ValueError(f"`thresholds` of {rule.code!r}: {error}") from None


def _as_default(code: str, name: str, value: float, default: object) -> float:
    """Return a count as a whole number: files do not tell 5 from 5.0."""
    if default is MISSING or isinstance(default, float) or isinstance(value, int):
        return value
    if not value.is_integer():
        raise ValueError(f"`thresholds` of {code!r}: `{name}` must be whole, got {value!r}.")
    return int(value)
