"""What goes wrong on the command line, in one sentence for people."""

from __future__ import annotations

import os


class UsageError(Exception):
    """What the user asked for cannot be done; the message says why, and what to do."""


def sentence(error: Exception) -> str:
    """Write an error for people: the system's own ones begin with a number."""
    from lightning_diag.report.words import plain  # noqa: PLC0415 (commands that work need it not)

    if isinstance(error, OSError) and error.strerror:
        return plain(f"{os.fspath(error.filename or 'file')}: {error.strerror}.")
    return plain(" ".join(str(error).split()))
