"""Which name of a source goes to which name of a module: renaming, and prefixes found."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

Renaming = Mapping[str, str | None] | Callable[[str], str | None]
Shapes = Mapping[str, tuple[int, ...]]

_LARGEST_GROUP = 64
"""Names that end alike, above which an ending (``weight``) says nothing of prefixes; our choice."""
_CANDIDATES = 64
"""Pairs of prefixes that are tried in full; our choice."""
_LEAST_BELOW, _LEAST_OF_ALL = 0.5, 0.25
"""Of the names below a found prefix, and of all names, that must fit, in the source or in the
module, lest two models that are strangers meet by chance in ``0.weight``; our choice."""


@dataclass(frozen=True)
class Prefix:
    """How names of a source begin otherwise than those of the module."""

    removed: str = ""
    """What the source's names begin with, its dot included."""
    added: str = ""
    """What the module's names begin with in its place."""

    def __call__(self, name: str) -> str | None:
        """Return the module's name for one of the source, None if it begins otherwise.

        Example:
            >>> Prefix("model.", "backbone.")("model.conv1.weight")
            'backbone.conv1.weight'
        """
        if not name.startswith(self.removed):
            return None
        return self.added + name[len(self.removed) :]

    def __str__(self) -> str:
        parts = [f"{self.removed!r} removed"] * bool(self.removed)
        return ", ".join(parts + [f"{self.added!r} added"] * bool(self.added)) or "as they are"


def renamed(names: list[str], renaming: Renaming | None) -> dict[str, str | None]:
    r"""Return what each name becomes; None for what is to be dropped.

    Args:
        renaming: Regular expressions with replacements, each applied to what the ones before it
            made; a replacement of None drops the names that it is found in. Or a function.

    Raises:
        ValueError: If a pattern is no regular expression or is found nowhere, or if two names
            become one.

    Example:
        >>> renamed(["enc.0.w", "dec.0.w"], {r"^enc\.": "encoder.", "^dec": None})
        {'enc.0.w': 'encoder.0.w', 'dec.0.w': None}
    """
    if renaming is None:
        return {name: name for name in names}
    if isinstance(renaming, Mapping):
        new: dict[str, str | None] = _by_patterns(names, renaming)
    else:
        new = {name: renaming(name) for name in names}
    taken: dict[str, str] = {}
    for name, becomes in new.items():
        if becomes is not None and taken.setdefault(becomes, name) != name:
            raise ValueError(
                f"`mapping` makes {becomes!r} of both {taken[becomes]!r} and {name!r}: each name "
                "can be given once."
            )
    return new


def _by_patterns(names: list[str], patterns: Mapping[str, str | None]) -> dict[str, str | None]:
    new: dict[str, str | None] = {name: name for name in names}
    for pattern, replacement in patterns.items():
        found = False
        for name, current in new.items():
            if current is None:
                continue
            try:
                becomes, count = re.subn(pattern, replacement or "", current)
            except (re.error, IndexError) as error:
                raise ValueError(
                    f"`mapping` has {pattern!r} to {replacement!r}, which `re.sub` cannot take: "
                    f"{error}."
                ) from error
            if count:
                found = True
                new[name] = None if replacement is None else becomes
        if not found:
            raise ValueError(
                f"`mapping` has {pattern!r}, which is found in no name of the source{_like(names)}"
            )
    return new


def _like(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f": they look like {shown}." if shown else ", which is empty."


def near(name: str, known: list[str]) -> tuple[str, ...]:
    """Return up to two names that are like one."""
    return tuple(get_close_matches(name, known[:500], n=2, cutoff=0.6))


def find_prefix(source: Shapes, target: Shapes) -> tuple[Prefix, tuple[Prefix, ...]]:
    """Return the prefixes under which most names fit, and others that fit as many.

    Names that fit with their shapes count more than others. Of equals the one that changes least
    is taken, then the one that was found first. It must make at least half of the names fit that
    are below it, and a quarter of all, in the source or in the module.

    Args:
        source: Names with shapes, renamed already.
        target: The module's.

    Example:
        >>> shapes = {"0.weight": (2, 3), "0.bias": (2,)}
        >>> find_prefix({f"model.{name}": shape for name, shape in shapes.items()}, shapes)[0]
        Prefix(removed='model.', added='')
    """
    scores = {pair: _score(pair, source, target) for pair in _candidates(source, target)}
    valid = {pair: score for pair, score in scores.items() if _fits(pair, score, source, target)}
    valid[Prefix()] = _score(Prefix(), source, target)
    best = max(valid.values())
    equals = [pair for pair, score in valid.items() if score == best]
    equals.sort(key=lambda pair: pair.removed.count(".") + pair.added.count("."))
    # Names that fit as they are leave no doubt.
    return equals[0], tuple(equals[1:]) if any(best) and equals[0] != Prefix() else ()


def _candidates(source: Shapes, target: Shapes) -> list[Prefix]:
    """Let each pair of names vote for what their longest common ending leaves of them."""
    endings: dict[str, list[str]] = defaultdict(list)
    for name in source:
        for ending in _endings(name):
            endings[ending].append(name)
    votes: Counter[tuple[str, str]] = Counter()
    for name, shape in target.items():
        seen: set[str] = set()
        for ending in _endings(name):
            group = endings.get(ending, [])
            if len(group) > _LARGEST_GROUP:
                break
            added = name[: len(name) - len(ending)]
            for other in group:
                if other not in seen:
                    removed = other[: len(other) - len(ending)]
                    votes[removed, added] += 2 if source[other] == shape else 1
            seen.update(group)
    return [Prefix(*pair) for pair, _ in votes.most_common(_CANDIDATES)]


def _endings(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]


def _score(pair: Prefix, source: Shapes, target: Shapes) -> tuple[int, int]:
    """Count the names that fit with their shapes, and those that fit at all."""
    pairs = [(shape, target.get(pair(name) or "")) for name, shape in source.items()]
    return sum(old == new for old, new in pairs), sum(new is not None for _, new in pairs)


def _fits(pair: Prefix, score: tuple[int, int], source: Shapes, target: Shapes) -> bool:
    under = sum(name.startswith(pair.removed) for name in source)
    place = sum(name.startswith(pair.added) for name in target)
    least = max(_LEAST_BELOW * min(under, place), _LEAST_OF_ALL * min(len(source), len(target)))
    return score[1] >= least
