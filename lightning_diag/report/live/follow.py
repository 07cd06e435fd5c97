"""`Follower`: reads what is new in a history file, also when another one takes its place."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from lightning_diag.finding import SEVERITIES, Finding, Severity
from lightning_diag.history.text import SCHEMA
from lightning_diag.report.live.state import Now

_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
"""What a line that is no JSON, or JSON of another kind, may raise."""
_FIRST = 4096
"""Bytes within which the first line ends, that of the schema."""


class Follower:
    """Reads a history file while another process writes it.

    Only whole lines count. Thinning puts a shorter file in the place of the old one; that is read
    anew from its beginning. While there is no file, there is no news.

    Args:
        path: The file.
        clock: Returns the seconds that files' times are counted in.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self.run = Now()
        self.age = 0.0
        """Seconds since the file was written to."""
        self._clock = clock
        self._end = 0
        self._identity = (0, 0)
        self._said: dict[str, Severity] = {}

    def look(self) -> list[Finding]:
        """Read on; return the findings that are new, or worse than before.

        Raises:
            ValueError: If the file is no history, or if a newer version wrote it.
            OSError: If it cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                data = self._rest(file.fileno(), file.read)
        except FileNotFoundError:
            return []
        except OSError as error:
            # On a network file system the writer replaced the file while it was read.
            if error.errno != errno.ESTALE:
                raise
            return []
        whole, newline, _ = data.rpartition(b"\n")
        if not newline and self._end == 0 and len(data) > _FIRST:
            self._take(data)
        for line in whole.split(b"\n") if newline else ():
            self._take(line)
            self._end += len(line) + 1
        return self._news()

    def _rest(self, descriptor: int, read: Callable[[], bytes]) -> bytes:
        status = os.fstat(descriptor)
        self.age = max(0.0, self._clock() - status.st_mtime)
        identity = (status.st_dev, status.st_ino)
        if identity != self._identity or status.st_size < self._end:
            self._identity, self._end, self.run = identity, 0, Now()
        os.lseek(descriptor, self._end, os.SEEK_SET)
        return read()

    def _take(self, line: bytes) -> None:
        try:
            content = json.loads(line.decode())  # else bytes of UTF-16 would do, too
            if self._end == 0:
                schema = int(content["schema"])
                if schema < 1 or len(line) >= _FIRST:
                    raise ValueError
            else:
                self.run.take(content)
                return
        except _UNREADABLE:
            if self._end == 0:
                raise ValueError(
                    f"{str(self.path)!r} is not a history file: its first line names no schema."
                ) from None
            return
        if schema > SCHEMA:
            raise ValueError(
                f"{str(self.path)!r} has schema {schema} and this lightning_diag reads up to "
                f"schema {SCHEMA}; update lightning_diag to read it."
            )

    def _news(self) -> list[Finding]:
        news = []
        for code, finding in self.run.findings.items():
            before = self._said.get(code)
            if before is None or SEVERITIES.index(finding.severity) < SEVERITIES.index(before):
                self._said[code] = finding.severity
                news.append(finding)
        return news
