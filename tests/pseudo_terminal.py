"""A terminal for tests: what a process wrote to it, and what a person would see there."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import termios
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import warm

_PIECES = re.compile(
    r"\x1b\[([?\d;]*)([A-Za-z])|\x1b\]8;[^\x1b]*\x1b\\|([\r\n\x08])|([^\x1b\r\n\x08]+)"
)


def written(*words: str, env: Mapping[str, str]) -> str:
    """Return all that Python wrote to a terminal of its own, called with some words.

    Raises:
        TimeoutError: If it takes longer.
        AssertionError: If it fails.
    """
    mine, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 200, 80, 0, 0))
    own = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    own |= {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1", **env}
    terminal = os.ttyname(its)
    command = warm.Command(words, str(Path.cwd()), own, terminal, terminal, strict=False)
    with ThreadPoolExecutor(1) as pool:
        statuses = pool.submit(warm.run_all, [command], 90.0)
        # as soon as nobody has it open, what was read so far is all
        statuses.add_done_callback(lambda _: os.close(its))
        try:
            text = _all(mine, time.monotonic() + 95.0).decode(errors="replace")
        finally:
            os.close(mine)
        assert statuses.result() == [0], text
    return text


def _all(descriptor: int, end: float) -> bytes:
    data = b""
    while True:
        left = end - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            raise TimeoutError(data.decode(errors="replace"))
        try:
            piece = os.read(descriptor, 65536)
        except OSError:  # so Linux tells that nobody writes any more
            return data
        if not piece:
            return data
        data += piece


def seen(text: str, columns: int = 80) -> list[str]:
    """Return the lines that a terminal of endless height shows after a text was written to it."""
    lines: list[list[str]] = [[]]
    row = column = 0
    for numbers, command, control, plain in _PIECES.findall(text):
        if command:
            row = _obeyed(lines, row, column, command, int(numbers) if numbers.isdigit() else 0)
        elif control == "\n":
            row += 1
        elif control:
            column = 0 if control == "\r" else max(0, column - 1)
        for letter in plain:
            if column == columns:
                row, column = row + 1, 0
            _put(lines, row, column, letter)
            column += 1
        _put(lines, row, 0, "")
    return ["".join(line).rstrip() for line in lines]


def _obeyed(lines: list[list[str]], row: int, column: int, command: str, number: int) -> int:
    """Move or erase, and return the row."""
    if command == "K":
        lines[row][column if number == 0 else 0 :] = []
    elif command == "J":
        lines[row + 1 :] = []
        lines[row][column:] = []
    steps = {"A": -1, "B": 1}.get(command, 0) * max(1, number)
    return max(0, row + steps)


def _put(lines: list[list[str]], row: int, column: int, letter: str) -> None:
    lines += [[] for _ in range(row + 1 - len(lines))]
    line = lines[row]
    line += " " * (column + len(letter) - len(line))
    line[column : column + len(letter)] = letter
