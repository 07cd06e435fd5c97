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
    if code not in rules:
        raise UsageError(f"There is no finding {code!r}{near(code, rules)}")
    return markdown(manual(rules[code]), width=min(columns or _WIDEST, _WIDEST))


def _listed(summaries: dict[str, str], columns: int | None) -> str:
    """Return a line for each code; where that is too narrow, what it means goes below it."""
    width = max(map(len, summaries))
    if columns is None or columns > width + 2 + max(map(len, summaries.values())):
        return "".join(f"{code:{width}}  {text}\n" for code, text in summaries.items())
    return "".join(
        f"{code}\n{textwrap.indent(textwrap.fill(text, columns - 2), '  ')}\n"
        for code, text in summaries.items()
    )
