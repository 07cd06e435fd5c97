"""`Shelf`: what is shown rather than plotted, such as pictures: a few, however long the run.

Each piece is a JSON value that belongs to a name, a place and a step.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any

MOST = 16
"""Our choice: steps of one name and place that are kept; a reader looks at a handful."""

Pieces = list[tuple[int, Any]]
"""Step and content, by ascending step."""


class Shelf:
    """Pieces by name and place: of each at most 16 steps.

    Example:
        >>> shelf = Shelf()
        >>> for step in range(100):
        ...     shelf.put("filter/pixels", "net.0.weight", step, f"of step {step}")
        >>> pieces = shelf.of("filter/pixels")["net.0.weight"]
        >>> len(pieces), pieces[0], pieces[-1]
        (16, (0, 'of step 0'), (99, 'of step 99'))
    """

    def __init__(self) -> None:
        self._pieces: dict[tuple[str, str], Pieces] = {}

    def put(self, name: str, place: str, step: int, content: Any) -> None:
        """Add a piece; what was known of this step and of later ones is superseded.

        Where there are too many, the one goes whose neighbours are closest together; the first and
        the newest stay.
        """
        pieces = self._pieces.setdefault((name, place), [])
        _cut(pieces, step)
        pieces.append((step, content))
        if len(pieces) > MOST:
            gaps = [pieces[i + 1][0] - pieces[i - 1][0] for i in range(1, len(pieces) - 1)]
            del pieces[1 + gaps.index(min(gaps))]

    def put_line(self, line: Mapping[str, Any]) -> None:
        """Add a piece as it stands in a file."""
        named = str(line["name"]), str(line["place"])
        self.put(*named, int(line["step"]), line["content"])

    def of(self, name: str) -> dict[str, Pieces]:
        """Return step and content of all pieces of a name, by place."""
        found = {place: list(pieces) for (n, place), pieces in self._pieces.items() if n == name}
        return {place: pieces for place, pieces in found.items() if pieces}

    def forget(self, step: int) -> bool:
        """Forget a step and later ones; return whether there was anything to forget."""
        found = [_cut(pieces, step) for pieces in self._pieces.values()]
        return any(found)

    def __iter__(self) -> Iterator[tuple[str, str, int, Any]]:
        """Yield name, place, step and content of each piece."""
        for (name, place), pieces in self._pieces.items():
            for step, content in pieces:
                yield name, place, step, content


def _cut(pieces: Pieces, step: int) -> bool:
    """Take the pieces from a step on off; return whether there were any."""
    end = bisect_left(pieces, step, key=lambda piece: piece[0])
    found = end < len(pieces)
    del pieces[end:]
    return found
