"""What `lightning-diag explain` prints fits the terminal; in a file it is Markdown as it is."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from lightning_diag.cli import main
from lightning_diag.rules import DEFAULT_RULES


def shown(
    words: list[str],
    columns: int | None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: columns is not None, raising=False)
    size = os.terminal_size((columns or 10, 24))
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: size)
    assert main(["explain", *words]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_a_page_is_wrapped_at_words_for_the_terminal(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = shown(["dead-relu"], columns, capsys, monkeypatch)
    assert max(map(len, page.splitlines())) <= min(columns, 100)
    assert page.split() == shown(["dead-relu"], None, capsys, monkeypatch).split()


def test_in_a_file_a_page_is_as_wide_as_in_the_docs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = shown(["dead-relu"], None, capsys, monkeypatch)
    assert 90 < max(map(len, page.splitlines())) <= 100


@pytest.mark.parametrize("columns", [60, 80, 140, None])
def test_the_list_has_each_code_at_the_beginning_of_a_line(
    columns: int | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown([], columns, capsys, monkeypatch).splitlines()
    assert {line.split()[0] for line in lines if line[0] != " "} == {r.code for r in DEFAULT_RULES}
    assert columns is None or max(map(len, lines)) <= columns
    assert (len(lines) == len(DEFAULT_RULES)) == (columns in (140, None))
