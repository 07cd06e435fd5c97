"""Run the examples of `examples/clinic`; draw their pictures and quote them in `docs/clinic.md`.

    python tools/clinic_page.py [NAME ...]

In the page, the text between `<!-- printed by NAME -->` and `<!-- end -->` is replaced by what
`Doctor` printed: for each run the verdict and the causes, without what follows from them.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pictures import PANELS, SICK, TREATED, Run, draw
from rich.console import Console

from lightning_diag.history import History
from lightning_diag.report import console

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples" / "clinic"
PICTURES = ROOT / "docs" / "images" / "clinic"
PAGE = ROOT / "docs" / "clinic.md"


def run(name: str, out: Path) -> list[Run]:
    """Run an example; return its trainings, the treated one last."""
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), "--out", str(out / name)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    titles = re.findall(r"^((?:Sick|Treated): .+)\n=+$", result.stdout, flags=re.MULTILINE)
    outcomes = re.findall(r"^  (Outcome +.+)$", result.stdout, flags=re.MULTILINE)
    folders = sorted((out / name).glob("*/lightning_diag"))
    sick = len(titles) - 1
    colors, styles = [*SICK[:sick], TREATED], [*("-", "--", "-.")[:sick], "-"]
    return [
        Run(title, outcome, History.open(folder), color, style)
        for title, outcome, folder, color, style in zip(
            titles, outcomes, folders, colors, styles, strict=True
        )
    ]


def said(one: Run) -> str:
    """Return the verdict on a run and its first finding, as the terminal shows them."""
    paper = io.StringIO()
    out = Console(file=paper, width=96, color_system=None)
    console.summary(one.history.findings, one.history, console=out)
    lines = [line.rstrip() for line in paper.getvalue().splitlines()]
    first = next(i for i, line in enumerate(lines) if line and "──" not in line)
    ends = re.compile(r"  (└─|Watched|Not observed|Not judged|Overhead)")
    last = next(i for i, line in enumerate(lines) if i > first and ends.match(line))
    return "\n".join(lines[first:last]).rstrip()


def quote(name: str, runs: Sequence[Run]) -> None:
    """Put into the page what was said of an example's runs."""
    text = "\n\n".join(f"{one.title}\n\n{said(one)}\n  {one.outcome}" for one in runs)
    page = PAGE.read_text(encoding="utf-8")
    begin, end = f"<!-- printed by {name} -->", "<!-- end -->"
    before, found, rest = page.partition(begin)
    if not found:
        raise SystemExit(f"{PAGE} has no line {begin!r}: add it, and {end!r} behind it.")
    after = rest.partition(end)[2]
    PAGE.write_text(f"{before}{begin}\n```text\n{text}\n```\n{end}{after}", encoding="utf-8")


def main() -> None:
    """Run examples, draw and quote them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="examples; all of them if there is none")
    names = parser.parse_args().names or list(PANELS)
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            runs = run(name, Path(scratch))
            path = draw(name, runs, PICTURES)
            quote(name, runs)
            print(f"{path}  {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
