"""The file under a history: found again, appended in whole lines, replaced atomically."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning_diag.warning import DiagWarning

NAME = "history.jsonl"
FOLDERS = "lightning_diag*"
"""A number follows where a folder below the same parent was taken."""


def find(path: str | os.PathLike[str]) -> Path:
    """Return the history file that a path names or holds, the one written last if several.

    Raises:
        FileNotFoundError: If there is none.
    """
    start = Path(path)
    if start.is_file():
        return start
    for above in ("", f"{FOLDERS}/", f"*/{FOLDERS}/", f"*/*/{FOLDERS}/"):
        found = [file for file in start.glob(above + NAME) if file.is_file()]
        if found:
            return max(found, key=lambda file: (file.stat().st_mtime_ns, str(file)))
    if start.is_dir():
        raise FileNotFoundError(
            f"The folder {str(start)!r} holds no lightning_diag/{NAME}; name the log folder of "
            "a run that was watched."
        )
    raise FileNotFoundError(f"There is no file or folder {str(start)!r}.")


class HistoryFile:
    """Appends whole lines to a file. After the first `OSError` it warns, and stays stopped.

    No locks, which network file systems do without: one process writes, the one that opened it.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = None
        # Absolute, since programs change folder; the target of a link, since replacing the link
        # would leave the target behind.
        self.path = path.resolve()
        self.size = 0
        self._owner = os.getpid()
        self._stopped = False
        self._identity = (0, 0)

    @property
    def writable(self) -> bool:
        """Whether lines still reach the file: no error so far, and not a forked child."""
        return not self._stopped and os.getpid() == self._owner

    def open(self, end: int | None = None) -> None:
        """Open for appending after `end` bytes (what follows them is a torn line), or after all."""
        with self.or_stop():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary.unlink(missing_ok=True)  # of a run killed while it replaced the file
            descriptor = self._open()
            if end is not None and self.size > end:
                os.ftruncate(descriptor, end)
                self.size = end

    def append(self, data: bytes, everything: Callable[[], Iterable[bytes]]) -> None:
        """Write whole lines; if someone removed or emptied the file, write `everything` anew."""
        with self.or_stop():
            if self._is_gone():
                self._replace(everything())
            else:
                self._write(self._open() if self._descriptor is None else self._descriptor, data)

    def replace(self, lines: Iterable[bytes]) -> None:
        """Put other contents in the file's place; a reader sees the old or the new ones."""
        with self.or_stop():
            self._replace(lines)

    def close(self) -> None:
        """Close the descriptor; appending opens it again."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)

    def __del__(self) -> None:
        self.close()

    @property
    def _temporary(self) -> Path:
        return self.path.with_name(self.path.name + ".tmp")

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        self._descriptor = descriptor = os.open(self.path, flags, 0o666)
        status = os.fstat(descriptor)
        self.size, self._identity = status.st_size, (status.st_dev, status.st_ino)
        return descriptor

    def _is_gone(self) -> bool:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return True
        if (status.st_dev, status.st_ino) != self._identity:
            raise OSError("another program has put a file in its place")
        return status.st_size < self.size

    def _write(self, descriptor: int, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        except BaseException:
            # Also on Ctrl-C: half a line would spoil the next one.
            with suppress(OSError):
                os.ftruncate(descriptor, self.size)
            raise
        self.size += len(data)

    def _replace(self, lines: Iterable[bytes]) -> None:
        try:
            with self._temporary.open("wb") as temporary:
                temporary.writelines(lines)
                temporary.flush()
                os.fsync(temporary.fileno())
            self.close()  # Windows replaces no open file
            self._temporary.replace(self.path)
        finally:
            with suppress(OSError):
                self._temporary.unlink(missing_ok=True)
            if self._descriptor is None:
                self._open()

    @contextmanager
    def or_stop(self) -> Iterator[None]:
        """Turn the first `OSError` into a warning, after which nothing is written any more."""
        try:
            yield
        except OSError as error:
            self._stopped = True
            self.close()
            warnings.warn(
                f"The history file {str(self.path)!r} cannot be written ({error}); the history "
                "goes on in memory only.",
                DiagWarning,
                stacklevel=5,
            )
