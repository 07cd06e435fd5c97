"""The pages on checks are those of the checks, and up to date."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from lightning_diag.checks import DEFAULT_CHECKS


@pytest.fixture
def tool(root: Path) -> ModuleType:
    """Return the script that writes the pages."""
    spec = importlib.util.spec_from_file_location("checks_tool", root / "tools" / "check_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_pages_are_what_the_checks_say(root: Path, tool: ModuleType) -> None:
    folder = root / "docs" / "checks"
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert tool.index(readme) == readme, "run `python tools/check_pages.py`"
    reference = (folder / "reference.md").read_text(encoding="utf-8")
    assert tool.reference() == reference, "run `python tools/check_pages.py`"


def test_each_check_has_a_heading_that_the_index_links_to(root: Path) -> None:
    folder = root / "docs" / "checks"
    text = (folder / "reference.md").read_text(encoding="utf-8")
    index = (folder / "README.md").read_text(encoding="utf-8")
    for check in DEFAULT_CHECKS:
        assert f"\n## {check.code}\n" in text
        assert f"(reference.md#{check.code})" in index
