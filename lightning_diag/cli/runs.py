"""From what the user types to a run: its history file, its name, its numbers."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lightning_diag.cli.errors import UsageError
from lightning_diag.history import History
from lightning_diag.history.file import FOLDERS, NAME, find

_DEPTH = 3
"""Folders between a path and a log folder: a project, its `lightning_logs`, a run."""


def locate(path: Path) -> Path:
    """Return the history file that a path names or holds.

    Args:
        path: A history file, its folder, the log folder of a run, or a folder above of one run.

    Raises:
        UsageError: If it holds several runs, or is neither a file nor a folder.
        FileNotFoundError: If it holds none.
        OSError: If nobody could tell, such as for a folder that must not be read.
    """
    with suppress(FileNotFoundError):
        path.stat()  # rather than `exists`, for which a closed folder is an empty one
    if path.is_file():
        return path
    if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    if path.exists() and not path.is_dir():
        raise UsageError(f"{str(path)!r} is neither a file nor a folder.")
    for above in ("", *(f"{'*/' * depth}{FOLDERS}/" for depth in range(_DEPTH + 1))):
        found = [file for file in path.glob(above + NAME) if file.is_file()]
        if len(found) == 1:
            return found[0]
        if found:
            newest = max(found, key=lambda file: (file.stat().st_mtime_ns, str(file)))
            raise UsageError(
                f"The folder {str(path)!r} holds {len(found)} runs: name one of them, "
                f"such as the newest, {str(newest.parent)!r}."
            )
    return find(path)


def read(path: Path, *, least: int = 1) -> tuple[Path, History]:
    """Return the history file of a run, and what it holds.

    Args:
        path: As in `locate`.
        least: Records that it must hold; a run of which nothing is known is not a healthy one.

    Raises:
        UsageError: If it holds several runs, or too little.
        FileNotFoundError: If it holds none.
        ValueError: If the file is no history, or if a newer version wrote it.
    """
    file = locate(path)
    history = History.open(file)
    if "not_judged" not in history.meta:
        # A fit writes both when it ends: this one goes on, or was killed.
        history.meta.setdefault("ended", "")
    if len(history) < least:
        raise UsageError(f"{str(file)!r} holds no watched step (yet).")
    return file, history


def names(files: Sequence[Path]) -> list[str]:
    """Return short names that tell runs apart: the parts of their paths that differ.

    Example:
        >>> logs = Path("lightning_logs")
        >>> names([logs / run / "lightning_diag/history.jsonl" for run in ("a", "b")])
        ['a', 'b']
    """
    parts = [Path(os.path.abspath(file)).parts for file in files]  # noqa: PTH100 (keeps links)
    shortest = min(map(len, parts))
    head = next((i for i in range(shortest) if len({p[i] for p in parts}) > 1), shortest)
    alike = (len({p[-i] for p in parts}) == 1 for i in range(1, shortest - head + 1))
    tail = next((i for i, same in enumerate(alike) if not same), shortest - head)
    short = ["/".join(p[head : len(p) - tail]) for p in parts]
    return [name or Path(file).parent.name for name, file in zip(short, files, strict=True)]
