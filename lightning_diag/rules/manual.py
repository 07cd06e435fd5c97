"""The manual's page on a rule, made from its docstring, its thresholds and the table of causes."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import ClassVar, Protocol

from lightning_diag.rules.base import Rule
from lightning_diag.rules.relations import RELATIONS

SECTIONS = ("What it sees", "Why it matters", "What to do", "References")
"""Headings that the docstring of each rule has, in this order."""

_ID = r"(?:[WCHPL]\d+)"
_SOURCES = re.compile(rf"\s+\((?:from )?{_ID}(?:, {_ID})*\)|(?<=\(){_ID}(?:, {_ID})*, ")


class Judge(Protocol):
    """What has a code, thresholds as fields, and a docstring with the sections of `SECTIONS`."""

    code: ClassVar[str]


@dataclass(frozen=True)
class Threshold:
    """A threshold of a rule."""

    name: str
    """As in the rule."""
    default: float
    """As in the rule."""
    text: str
    """What it means, its range and its source; empty where the source code is not at hand."""


@dataclass(frozen=True)
class Manual:
    """What there is to know of a rule."""

    code: str
    """Its public name."""
    summary: str
    """What it looks for, in a sentence."""
    sections: dict[str, str]
    """The text beneath each of `SECTIONS`: a line for each paragraph or reference."""
    thresholds: tuple[Threshold, ...]
    """Its fields."""
    needs: tuple[str, ...]
    """Metrics without which it does not judge."""
    uses: tuple[str, ...]
    """Metrics that it looks at if they are there."""
    causes: tuple[tuple[str, str], ...]
    """Codes of what may explain it, and how."""
    effects: tuple[tuple[str, str], ...]
    """Codes of what it may explain, and how."""


def manual(rule: type[Rule | Judge]) -> Manual:
    """Return the page on a rule, or on a check before training, which looks at no metric."""
    text = _without_sources(inspect.cleandoc(rule.__doc__ or ""))
    summary, *rest = re.split(rf"\n+({'|'.join(SECTIONS)}):\n", text)
    texts = _field_texts(rule)
    return Manual(
        code=rule.code,
        summary=_joined(summary),
        sections={
            name: _references(body) if name == "References" else _flowing(body)
            for name, body in zip(rest[::2], rest[1::2], strict=True)
        },
        thresholds=tuple(
            Threshold(field.name, field.default, texts.get(field.name, ""))  # type: ignore[arg-type]
            for field in fields(rule)  # type: ignore[arg-type]  # each is a dataclass
        ),
        needs=rule.needs if issubclass(rule, Rule) else (),
        uses=rule.uses if issubclass(rule, Rule) else (),
        causes=tuple((relation.cause, relation.why) for relation in RELATIONS.get(rule.code, ())),
        effects=tuple(
            (effect, relation.why)
            for effect, relations in RELATIONS.items()
            for relation in relations
            if relation.cause == rule.code
        ),
    )


def markdown(page: Manual, linked: Iterable[str] = (), *, width: int = 100) -> str:
    """Return a page as Markdown.

    Args:
        page: The page.
        linked: Codes that have a page beside this one, to link to.
        width: Columns that lines are wrapped at.
    """
    known, wrapped = frozenset(linked), partial(_wrapped, width=width)
    parts = [f"# {page.code}", wrapped(page.summary)]
    for name in SECTIONS[:3]:
        parts += [f"## {name}", wrapped(page.sections.get(name, ""))]
    for name, others in (("May come from", page.causes), ("May lead to", page.effects)):
        if others:
            told = [f"{_link(code, known)}: {_lowered(why)}" for code, why in others]
            parts += [f"## {name}", wrapped("\n".join(told), "- ")]
    parts += ["## Thresholds", wrapped(_change(page))]
    rows = [f"`{t.name}` = {t.default:g}. {t.text}".rstrip() for t in page.thresholds]
    parts.append(wrapped("\n".join(rows), "- "))
    parts += ["## Measured by", wrapped(_metrics(page))]
    parts += [f"## {SECTIONS[3]}", wrapped(page.sections.get(SECTIONS[3], ""), "- ")]
    return "\n\n".join(part for part in parts if part) + "\n"


def index(pages: Sequence[Manual]) -> str:
    """Return the table of contents as Markdown."""
    rows = [f"| [{page.code}]({page.code}.md) | {page.summary} |" for page in pages]
    return "\n".join(
        [
            "# Findings",
            "",
            "What `Doctor` can find, one page each, as `lightning-diag explain CODE` prints it.",
            "",
            "| code | means |",
            "|---|---|",
            *rows,
            "",
        ]
    )


def _link(code: str, linked: frozenset[str]) -> str:
    return f"[{code}]({code}.md)" if code in linked else f"`{code}`"


def _lowered(text: str) -> str:
    """Return a sentence as it goes on behind a colon; names keep their capitals."""
    return text[0].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text


def _change(page: Manual) -> str:
    first = page.thresholds[0]
    example = f'{{"{page.code}": {{"{first.name}": {first.default:g}}}}}'
    return (
        f"Set them with `Doctor(thresholds={example})`. Silence the rule with "
        f'`Doctor(mute=["{page.code}"])`, or at some places with '
        f'`Doctor(mute=["{page.code}:net.3*"])`.'
    )


def _metrics(page: Manual) -> str:
    needs = ", ".join(f"`{metric}`" for metric in page.needs)
    uses = ", ".join(f"`{metric}`" for metric in page.uses)
    text = f"Needs {needs}." if needs else "Needs what is known of the model."
    return f"{text} Also looks at {uses}." if uses else text


def _field_texts(rule: type[object]) -> dict[str, str]:
    """Return the docstrings of a rule's fields, which only its source code has."""
    try:
        tree = ast.parse(inspect.getsource(inspect.getmodule(rule) or rule))
    except (OSError, TypeError):
        return {}
    return {
        name: text
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name == rule.__name__
        for name, text in _documented(node)
    }


def _documented(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Yield the names in a class that a docstring follows, each with it."""
    for field, after in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            yield field.target.id, _joined(_without_sources(str(after.value.value)))


def _without_sources(text: str) -> str:
    """Leave out the numbers by which the project's own notes go."""
    return _SOURCES.sub("", text)


def _flowing(text: str) -> str:
    """Return paragraphs with a line each."""
    return "\n".join(_joined(part) for part in re.split(r"\n\s*\n", text) if part.strip())


def _references(text: str) -> str:
    """Return references with a line each; in a docstring each ends with a line that does."""
    return "\n".join(_joined(item) for item in re.split(r"(?<=\.)\n", text) if item.strip())


def _wrapped(text: str, mark: str = "", *, width: int) -> str:
    """Wrap each line as a paragraph, or as an item of a list."""
    gap = "\n" if mark else "\n\n"
    return gap.join(
        textwrap.fill(
            line,
            width,
            initial_indent=mark,
            subsequent_indent=" " * len(mark),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in text.splitlines()
    )


def _joined(text: str) -> str:
    return " ".join(text.split())
