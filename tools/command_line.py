"""Renew what commands print in `docs/command-line.md`, by running them.

python tools/command_line.py

A block of kind ``console`` holds commands behind ``$ `` and, below each, what it prints; a line
``...`` stands for lines that are left out. One behind ``<!-- not run: reason -->`` stays as it is.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "command-line.md"
RUNS = {"version_0": "healthy", "version_1": "high-learning-rate"}
"""Log folder to the stored run in it: two of the demo's trainings."""
WIDTH = 96
BLOCK = re.compile(r"(<!-- not run: .+? -->\n)?^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SETTINGS = """\
mute = ["slow-dataloader"]

[dead-relu]
fraction = 0.3
"""


def prepare(folder: Path) -> None:
    """Lay out what the page speaks of."""
    for name, run in RUNS.items():
        target = folder / "lightning_logs" / name / "lightning_diag"
        target.mkdir(parents=True)
        shutil.copy(ROOT / "tests" / "data" / "runs" / f"{run}.jsonl", target / "history.jsonl")
    (folder / "diag.toml").write_text(_SETTINGS, encoding="utf-8")


def run(command: str, folder: Path, home: Path = ROOT) -> tuple[str, int]:
    """Run a command of the page; return what it printed, and how it ended."""
    name, *words = shlex.split(command)
    if name != "lightning-diag":
        raise ValueError(f"A command of the page must be lightning-diag, got {name!r}.")
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": str(home),
        "COLUMNS": str(WIDTH),
        "PYTHONUTF8": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "lightning_diag", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    return done.stdout, done.returncode


def renewed(text: str, folder: Path, home: Path = ROOT) -> str:
    """Return a page with what its commands print now."""

    def renew(match: re.Match[str]) -> str:
        skipped, body = match.group(1), match.group(2)
        if skipped:
            return match.group()
        return f"```console\n{_renewed_block(body, folder, home)}```"

    return BLOCK.sub(renew, text)


def _renewed_block(body: str, folder: Path, home: Path) -> str:
    parts, code = [], 0
    for part in re.split(r"^(?=\$ )", body, flags=re.MULTILINE):
        command, _, before = part.partition("\n")
        if not command:
            continue
        if command == "$ echo $?":
            told = f"{code}\n"
        else:
            told, code = run(command.removeprefix("$ "), folder, home)
        parts.append(f"{command}\n{_abridged(told, before)}")
    return "".join(parts)


def _abridged(told: str, before: str) -> str:
    """Leave out of an output what the page leaves out: as many lines stay around each ``...``."""
    lines, shown = told.splitlines(), before.splitlines()
    if "..." not in shown:
        return told
    head = shown.index("...")
    tail = len(shown) - head - 1
    return "\n".join([*lines[:head], "...", *lines[len(lines) - tail :]]) + "\n"


def main() -> None:
    """Write the page."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8"), folder), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
