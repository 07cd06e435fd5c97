"""``lightning-diag explain``."""

from __future__ import annotations

import argparse

from lightning_diag.cli.errors import UsageError
from lightning_diag.rules import DEFAULT_RULES
from lightning_diag.rules.choice import near
from lightning_diag.rules.manual import manual, markdown


def run(options: argparse.Namespace) -> int:
    """Print the manual's page on a rule, or what there is to find."""
    print(_explained(options.code), end="")  # noqa: T201
    return 0


def _explained(code: str | None) -> str:
    rules = {rule.code: rule for rule in DEFAULT_RULES}
    if code is None:
        pages = [manual(rules[code]) for code in sorted(rules)]
        width = max(map(len, rules))
        return "".join(f"{page.code:{width}}  {page.summary}\n" for page in pages)
    if code not in rules:
        raise UsageError(f"There is no finding {code!r}{near(code, rules)}")
    return markdown(manual(rules[code]))
