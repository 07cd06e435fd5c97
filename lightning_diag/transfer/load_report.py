"""`LoadReport`: what was loaded, what was not, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lightning_diag.transfer.mapping import Prefix

_SHOWN = 10
"""Lines of one kind that the text shows; the rest is counted."""
_CHOOSE = "choose by `prefix`, or load into a part of the module"


@dataclass(frozen=True)
class Loaded:
    """A tensor of the module that was loaded."""

    name: str
    """Its name in the module."""
    origin: str
    """Its name in the source."""
    change: str = ""
    """How it was made to fit, empty if it was not."""


@dataclass(frozen=True)
class LeftOut:
    """A tensor of the module that was not loaded, though it has a partner, or was to be skipped."""

    name: str
    """Its name in the module."""
    origin: str
    """Its name in the source, empty if that has none."""
    reason: str
    asked: bool = False
    """Whether the caller wanted it so."""


@dataclass(frozen=True)
class Lone:
    """A name that only one of the two has."""

    name: str
    near: tuple[str, ...] = ()
    """Names of the other that nothing was found for either, and that are like it."""


@dataclass(frozen=True)
class LoadReport:
    """What `load_pretrained` did; as text, a table that a person can read.

    Example:
        >>> report = LoadReport("a Linear", (Loaded("weight", "weight"),), missing=(Lone("bias"),),
        ...                     values=8, loaded_values=6)
        >>> print(report)
        Loaded 1 of 2 tensors from a Linear: 75.0 % of 8 values.
          missing (1), left as constructed
            bias
        >>> report.is_complete
        False
    """

    source: str
    """What was loaded from."""
    matched: tuple[Loaded, ...] = ()
    """Loaded as they are, in the module's order."""
    reshaped: tuple[Loaded, ...] = ()
    """Loaded after their size was changed."""
    left_out: tuple[LeftOut, ...] = ()
    missing: tuple[Lone, ...] = ()
    """Of the module, without any partner in the source."""
    unexpected: tuple[Lone, ...] = ()
    """Of the source, without any partner in the module."""
    dropped: tuple[str, ...] = ()
    """Of the source, which `mapping` asked to drop."""
    prefix: Prefix = field(default_factory=Prefix)
    """How names begin otherwise in the source."""
    rivals: tuple[Prefix, ...] = ()
    """Other prefixes that fitted as many names."""
    values: int = 0
    """Numbers that the module holds, tied weights once."""
    loaded_values: int = 0
    initialised: bool = False
    """Whether what was not loaded was handed to `init`; otherwise it is as constructed."""

    @property
    def share(self) -> float:
        """Return the share of the module's numbers that were loaded, 0 to 1."""
        return self.loaded_values / self.values if self.values else 1.0

    @property
    def is_complete(self) -> bool:
        """Return whether nothing is missing, unexpected or left out but what was asked for."""
        return not (self.missing or self.unexpected or any(not e.asked for e in self.left_out))

    @property
    def not_loaded(self) -> tuple[str, ...]:
        """Return the module's names that hold what they did before, or what `init` gave them."""
        return (*(each.name for each in self.left_out), *(each.name for each in self.missing))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, such as JSON takes."""
        return asdict(self)

    def __str__(self) -> str:
        done = len(self.matched) + len(self.reshaped)
        total = done + len(self.not_loaded)
        share = f"{100 * self.share:.1f} % of {self.values:,} values"
        lines = [f"Loaded {done} of {total} tensors from {self.source}: {share}."]
        if self.prefix != Prefix():
            lines.append(f"  names: {self.prefix}")
        if self.rivals:
            others = "; ".join(map(str, self.rivals[:3]))
            lines.append(f"  names would fit as well with {others}: {_CHOOSE}")
        state = "handed to `init`" if self.initialised else "left as constructed"
        changed = [each for each in self.matched if each.change]
        lines += _block("changed", [_loaded(each) for each in changed])
        lines += _block("reshaped", [_loaded(each) for each in self.reshaped])
        lines += _block("left out", [_left_out(each) for each in self.left_out], state)
        lines += _block("missing", [_lone(each) for each in self.missing], state)
        lines += _block("unexpected", [_lone(each) for each in self.unexpected])
        lines += _block("dropped, as asked", list(self.dropped))
        return "\n".join(lines)


def _block(title: str, entries: Sequence[str], note: str = "") -> list[str]:
    if not entries:
        return []
    head = f"  {title} ({len(entries)})" + (f", {note}" if note else "")
    more = [f"and {len(entries) - _SHOWN} more"] if len(entries) > _SHOWN else []
    return [head, *(f"    {entry}" for entry in [*entries[:_SHOWN], *more])]


def _loaded(entry: Loaded) -> str:
    origin = "" if entry.origin == entry.name else f" from {entry.origin}"
    return f"{entry.name}{origin}: {entry.change}"


def _left_out(entry: LeftOut) -> str:
    origin = f" ({entry.origin})" if entry.origin not in {"", entry.name} else ""
    return f"{entry.name}{origin}: {entry.reason}"


def _lone(entry: Lone) -> str:
    return f"{entry.name}, near: {entry.near[0]}" if entry.near else entry.name
