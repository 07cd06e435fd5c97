"""The command line: ``lightning-diag demo``, ``report`` and ``explain``."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lightning_diag import __version__
from lightning_diag.history import History
from lightning_diag.history.file import find
from lightning_diag.report import summary, write_html
from lightning_diag.rules import DEFAULT_RULES
from lightning_diag.rules.choice import near
from lightning_diag.rules.manual import manual, markdown

_EXAMPLES = """\
examples:
  lightning-diag demo                     three short trainings, files in a temporary folder
  lightning-diag demo --out diagnosis     the same, files in ./diagnosis
  lightning-diag report lightning_logs/version_3
                                          the verdict on a stored run, and its page again
  lightning-diag explain dead-relu        what a finding means, and what to do
"""

_DEMO = """\
Train three small networks on scikit-learn's handwritten digits, watched by Doctor: a healthy
one, a deep one of sigmoids, and one with a learning rate that kills units. Takes about a minute.
"""

_REPORT = """\
Print the verdict on a run from its history and write its HTML page again. The history is read
while the run goes on, too, and needs neither torch nor Lightning.
"""

_EXPLAIN = """\
Print what a finding means: what its rule sees, why it matters, what to do, what it may come from,
and its thresholds. Without a code, list all that can be found.
"""


class UsageError(Exception):
    """What the user asked for cannot be done; the message says why, and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words after the command's name; by default those of this process.

    Returns:
        0 when it was done, 2 when it could not be; what was found in a run changes nothing.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.command == "demo":
            _demo(options.out, options.seed)
        elif options.command == "explain":
            print(_explained(options.code), end="")  # noqa: T201
        else:
            _report(options.run, options.out)
    except (UsageError, OSError, ValueError) as error:
        print(f"lightning-diag: {_sentence(error)}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def _sentence(error: Exception) -> str:
    """Write an error for people: the system's own ones begin with a number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{os.fspath(error.filename or 'file')}: {error.strerror}."
    return str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-diag",
        description="Say what is wrong with a training run.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lightning-diag {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="watch three short trainings", description=_DEMO)
    demo.add_argument("--out", type=Path, metavar="FOLDER", help="where the files go")
    demo.add_argument("--seed", type=int, default=0, help="seed of all three (default: 0)")

    report = commands.add_parser("report", help="report on a stored run", description=_REPORT)
    report.add_argument("run", type=Path, metavar="RUN", help="its log folder or history file")
    report.add_argument("--out", type=Path, metavar="FILE", help="default: beside the history")

    explain = commands.add_parser("explain", help="what a finding means", description=_EXPLAIN)
    explain.add_argument("code", nargs="?", metavar="CODE", help="as dead-relu; default: list all")
    return parser


def _demo(out: Path | None, seed: int) -> None:
    """Run the demo in a folder, a temporary one unless it is named."""
    if importlib.util.find_spec("sklearn") is None:
        raise UsageError("The demo needs scikit-learn: run `pip install 'lightning-diag[demo]'`.")
    folder = out or Path(tempfile.mkdtemp(prefix="lightning-diag-demo-"))
    folder.mkdir(parents=True, exist_ok=True)

    from lightning_diag.demo import run  # noqa: PLC0415 (the other commands need no torch)

    run(folder, seed=seed)


def _explained(code: str | None) -> str:
    """Return the manual's page on a rule, or what there is to find."""
    rules = {rule.code: rule for rule in DEFAULT_RULES}
    if code is None:
        pages = [manual(rules[code]) for code in sorted(rules)]
        width = max(map(len, rules))
        return "".join(f"{page.code:{width}}  {page.summary}\n" for page in pages)
    if code not in rules:
        raise UsageError(f"There is no finding {code!r}{near(code, rules)}")
    return markdown(manual(rules[code]))


def _report(run: Path, out: Path | None) -> None:
    """Print the verdict on a stored run and write its page."""
    file = find(run)
    if out is not None and out.is_dir():
        out /= "report.html"
    with History.open(file) as history:
        page = write_html(history, history.findings, out or file.with_name("report.html"))
        summary(history.findings, history, report=os.path.relpath(page))
