"""``lightning-diag explain``."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap

from lightning_diag.cli.errors import UsageError
from lightning_diag.rules import DEFAULT_RULES
from lightning_diag.rules.choice import near
from lightning_diag.rules.manual import manual, markdown

_WIDEST = 100
"""Columns of the Markdown, and of lines on a terminal that has more."""


def run(options: argparse.Namespace) -> int:
    """Print the manual's page on a rule, or what there is to find."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(_explained(options.code, columns), end="")  # noqa: T201
    return 0


def _explained(code: str | None, columns: int | None) -> str:
    """Return what to print: wrapped for a terminal, else a line each, or Markdown."""
    rules = {rule.code: rule for rule in DEFAULT_RULES}
    if code is None:
        return _listed({code: manual(rules[code]).summary for code in sorted(rules)}, columns)
    width = min(columns or _WIDEST, _WIDEST)
    return markdown(manual(rules[code]), width=width) if code in rules else _of_check(code, width)


def _of_check(code: str, width: int) -> str:
    """Return the page on a check that is no rule."""
    try:  # checks need torch, and pages on rules do not
        from lightning_diag.before_training import page_of  # noqa: PLC0415
        from lightning_diag.checks import DEFAULT_CHECKS  # noqa: PLC0415

        checks = {check.code: check for check in DEFAULT_CHECKS}
    except ImportError:
        checks = {}
    if code not in checks:
        known = [*checks, *(rule.code for rule in DEFAULT_RULES)]
        raise UsageError(f"There is no finding {code!r}{near(code, known)}")
    return page_of(checks[code], width=width)


def _listed(summaries: dict[str, str], columns: int | None) -> str:
    """Return a line for each code; where that is too narrow, what it means goes below it."""
    width = max(map(len, summaries))
    if columns is None or columns > width + 2 + max(map(len, summaries.values())):
        return "".join(f"{code:{width}}  {text}\n" for code, text in summaries.items())
    return "".join(
        f"{code}\n{textwrap.indent(textwrap.fill(text, columns - 2), '  ')}\n"
        for code, text in summaries.items()
    )
