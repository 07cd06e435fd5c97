"""The manual's pages are those of the rules, and up to date."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest
from rules.test_diagnosis import Scripted

from lightning_diag.rules import DEFAULT_RULES, Rule
from lightning_diag.rules.manual import SECTIONS, manual, markdown

RULES = pytest.mark.parametrize("rule", DEFAULT_RULES, ids=lambda rule: rule.code)


@pytest.fixture
def tool(root: Path) -> ModuleType:
    """Return the script that writes the pages."""
    spec = importlib.util.spec_from_file_location("findings_tool", root / "tools" / "findings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_pages_are_what_the_rules_say(root: Path, tool: ModuleType) -> None:
    folder = root / "docs" / "findings"
    committed = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    stale = [name for name, text in tool.pages().items() if committed.get(name) != text]
    stale += sorted(committed.keys() - tool.pages().keys())
    assert stale == [], "run `python tools/findings.py`"


@RULES
def test_a_page_has_each_part_of_the_rule(rule: type[Rule]) -> None:
    page = manual(rule)
    text = markdown(page)
    assert page.summary.endswith(".")
    assert all(page.sections[name] for name in SECTIONS)
    assert all(threshold.text for threshold in page.thresholds)
    assert re.findall(r"^- `(\w+)` = ", text, flags=re.MULTILINE) == [
        threshold.name for threshold in page.thresholds
    ]


@RULES
def test_a_page_has_no_reference_that_a_reader_cannot_follow(rule: type[Rule]) -> None:
    assert not re.search(r"\b[WCHP]\d+\b(?!\w)", markdown(manual(rule)))


def test_a_page_names_what_explains_it_and_what_it_explains() -> None:
    page = manual(next(rule for rule in DEFAULT_RULES if rule.code == "dead-relu"))
    text = markdown(page, ["learning-rate-too-high"])
    assert "## May come from" in text
    assert "- [learning-rate-too-high](learning-rate-too-high.md): large steps" in text
    assert "- `vanishing-gradient`: no gradient passes" in text


def test_a_rule_of_ones_own_needs_no_docstring_of_any_form() -> None:
    @dataclass(frozen=True)
    class Own(Scripted):
        code: ClassVar[str] = "own"

    page = manual(Own)
    assert page.code == "own"
    assert page.sections == {}
