"""`InitTable`: what initialisation fits each parameter, as values and as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Draw = Literal[
    "he", "xavier", "lecun", "orthogonal", "sparse", "normal", "ones", "zeros", "forget", "keep"
]
"""How a parameter is drawn: ``forget`` is zeros but for ones at the forget gates of an LSTM."""

_SHOWN = 4
"""Names of parameters that are left alone for the same reason; the rest is counted."""


@dataclass(frozen=True)
class InitSuggestion:
    """How one parameter should begin."""

    name: str
    shape: tuple[int, ...]
    kind: str
    """weight, gates, recurrent, attention, embedding, norm, bias or other."""
    followed_by: str
    """What the layer's output goes into; ``not known`` where that was not seen."""
    draw: Draw
    """``keep`` where it is left alone."""
    reason: str = ""
    """Why, where that does not go without saying."""
    fan_in: float | None = None
    fan_out: float | None = None
    gain: float | None = None
    """Standard deviation times the root of the fan, as `draw` takes it."""
    std: float | None = None
    """Standard deviation of the weights to be drawn."""
    branches: int = 1
    """Residual branches that are added up, of which this layer ends one."""
    size: float = 0.0
    """Root mean square of the weights as they are."""

    @property
    def ratio(self) -> float | None:
        """Size of the weights as they are over the standard deviation that fits them."""
        return self.size / self.std if self.std else None


@dataclass(frozen=True)
class InitTable:
    """What `suggest_init` suggests, or what `init_` did; as text, a table.

    Example:
        >>> table = InitTable((InitSuggestion("0.weight", (4, 8), "weight", "relu", "he",
        ...                                   fan_in=8, gain=2**0.5, std=0.5, size=0.2),))
        >>> print(table)
        parameter  followed by  draw  gain  std is → fits
        0.weight   relu         he    1.41  0.2 → 0.5
        >>> table["0.weight"].ratio
        0.4
    """

    rows: tuple[InitSuggestion, ...]
    is_done: bool = False
    """Whether the weights were drawn, too; then `size` is theirs."""

    def __iter__(self) -> Iterator[InitSuggestion]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> InitSuggestion:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"{name!r}: the table has {', '.join(row.name for row in self.rows)}")

    def __str__(self) -> str:
        heading = "std fits, is" if self.is_done else "std is → fits"
        lines = [("parameter", "followed by", "draw", "gain", heading, "")]
        lines += [_line(row, is_done=self.is_done) for row in self.rows if row.std is not None]
        widths = [max(len(line[i]) for line in lines) for i in range(5)]
        text = [
            "  ".join([*map(str.ljust, line[:5], widths), line[5]]).rstrip()
            for line in lines
            if len(lines) > 1
        ]
        counts = Counter(f"{row.kind}: {row.draw}" for row in self.rows if _is_plain(row))
        text += [f"{count} × {what}" for what, count in counts.items()]
        kept: dict[str, list[str]] = {}
        for row in self.rows:
            if row.draw == "keep":
                kept.setdefault(row.reason, []).append(row.name)
        text += [f"{_names(names)}: left alone, {reason}" for reason, names in kept.items()]
        return "\n".join(text) or "no parameters"


def _is_plain(row: InitSuggestion) -> bool:
    return row.std is None and row.draw != "keep"


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _line(row: InitSuggestion, *, is_done: bool) -> tuple[str, str, str, str, str, str]:
    std = row.std or 0.0
    numbers = f"{std:.3g}, {row.size:.3g}" if is_done else f"{row.size:.3g} → {std:.3g}"
    gain = "" if row.gain is None else f"{row.gain:.3g}"
    return row.name, row.followed_by, row.draw, gain, numbers, row.reason
