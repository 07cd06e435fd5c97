"""`Result`: what a check measured, beside what it found."""

from __future__ import annotations

from typing import Protocol


class Result(Protocol):
    """Numbers that are good to know, and one sentence on them; it pickles."""

    @property
    def line(self) -> str:
        """One sentence for people."""
