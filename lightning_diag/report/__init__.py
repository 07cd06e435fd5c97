"""History and findings, as text on the terminal and as a page."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_diag.report.console import say, summary
    from lightning_diag.report.html import write_html

__all__ = ["say", "summary", "write_html"]

_HOMES = {"say": "console", "summary": "console", "write_html": "html"}
"""Imported when first used: who judges a run does not wait for what only a page needs."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
