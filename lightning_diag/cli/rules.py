"""``lightning-diag rules``."""

from __future__ import annotations

import argparse
import ast
import inspect
import json
from collections.abc import Sequence
from types import ModuleType

import rich
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from lightning_diag.finding import SEVERITIES, Severity
from lightning_diag.report.console import write
from lightning_diag.report.words import SIGNS
from lightning_diag.rules import DEFAULT_RULES, Rule
from lightning_diag.rules.manual import Manual, manual

_Row = tuple[Manual, tuple[Severity, ...]]


def run(options: argparse.Namespace) -> int:
    """Print all rules."""
    rows = [(manual(rule), severities(rule)) for rule in sorted(DEFAULT_RULES, key=_code)]
    if options.format == "json":
        print(_json(rows))  # noqa: T201
    elif options.format == "markdown":
        print(_markdown(rows))  # noqa: T201
    else:
        _text(rows, rich.get_console())
    return 0


def _code(rule: type[Rule]) -> str:
    return rule.code


def severities(rule: type[Rule]) -> tuple[Severity, ...]:
    """Return the severities that a rule may give, most severe first, as its source names them.

    () where the source code is not at hand.
    """
    own = inspect.getmodule(rule)
    rules = {other.__module__ for other in DEFAULT_RULES}
    # Some rules leave the last word to a module of their own, such as `overshoot`.
    helpers = {
        home
        for value in vars(own).values()
        if (home := inspect.getmodule(value)) is not None
        and home.__name__.startswith("lightning_diag.rules.")
        and home.__name__ not in rules
    }
    found = _named(own) or {name for home in helpers for name in _named(home)}
    return tuple(severity for severity in SEVERITIES if severity in found)


def _named(module: ModuleType | None) -> set[str]:
    try:
        tree = ast.parse(inspect.getsource(module)) if module else None
    except (OSError, TypeError):
        return set()
    return {
        node.value
        for node in (ast.walk(tree) if tree else ())
        if isinstance(node, ast.Constant) and node.value in SEVERITIES
    }


def _thresholds(page: Manual) -> list[str]:
    return [f"{threshold.name}={threshold.default:g}" for threshold in page.thresholds]


def _text(rows: Sequence[_Row], out: Console) -> None:
    for page, found in rows:
        head = Text.assemble((page.code, "bold"))
        for i, severity in enumerate(found):
            sign = SIGNS[severity]
            head.append(", " if i else "  ").append(sign.word, sign.style)
        thresholds = Text(", ".join(_thresholds(page)), "dim")
        write(out, head, *(Padding(part, (0, 0, 0, 2)) for part in (page.summary, thresholds)))


def _json(rows: Sequence[_Row]) -> str:
    content = [
        {
            "code": page.code,
            "summary": page.summary,
            "severities": list(found),
            "thresholds": {
                threshold.name: {"default": threshold.default, "text": threshold.text}
                for threshold in page.thresholds
            },
        }
        for page, found in rows
    ]
    return json.dumps(content, indent=2, ensure_ascii=False)


def _markdown(rows: Sequence[_Row]) -> str:
    lines = ["| code | severity | thresholds | looks for |", "|---|---|---|---|"]
    for page, found in rows:
        thresholds = ", ".join(f"`{text}`" for text in _thresholds(page))
        lines.append(f"| `{page.code}` | {', '.join(found)} | {thresholds} | {page.summary} |")
    return "\n".join(lines)
