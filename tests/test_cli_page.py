"""`docs/command-line.md` shows what the commands print."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import lightning_diag

HOME = Path(lightning_diag.__file__).resolve().parent.parent


@pytest.fixture
def tool(root: Path) -> ModuleType:
    """Return the script that renews the page."""
    path = root / "tools" / "command_line.py"
    spec = importlib.util.spec_from_file_location("command_line_tool", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_what_its_commands_print(
    root: Path, tmp_path: Path, tool: ModuleType
) -> None:
    tool.prepare(tmp_path)
    page = (root / "docs" / "command-line.md").read_text(encoding="utf-8")
    assert tool.renewed(page, tmp_path, HOME) == page, "run `python tools/command_line.py`"


def test_the_page_tells_of_every_command(root: Path) -> None:
    from lightning_diag.cli.completion import commands

    page = (root / "docs" / "command-line.md").read_text(encoding="utf-8")
    table = page.partition("| command |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"^\| \[?`([a-z]+)", table, re.MULTILINE)) == sorted(commands())
    for name, (_, words) in commands().items():
        for flag in (flag for word in words for flag in word.flags if flag.startswith("--")):
            assert flag in page or flag in ("--help", "--seed"), (name, flag)


def test_an_output_that_is_not_the_pages_is_found(tmp_path: Path, tool: ModuleType) -> None:
    tool.prepare(tmp_path)
    block = "```console\n$ lightning-diag explain dead-rellu\nnonsense\n$ echo $?\n0\n```\n"
    text = tool.renewed(f"{block}<!-- not run: why -->\n{block}", tmp_path, HOME)
    assert "did you mean 'dead-relu'?\n$ echo $?\n2\n" in text
    assert text.count("nonsense") == 1
    with pytest.raises(ValueError, match="must be lightning-diag"):
        tool.renewed("```console\n$ rm -r .\n```\n", tmp_path, HOME)


def test_what_the_page_leaves_out_is_left_out(tool: ModuleType) -> None:
    assert tool._abridged("1\n2\n3\n4\n5\n", "a\n...\nb\nc\n") == "1\n...\n4\n5\n"
