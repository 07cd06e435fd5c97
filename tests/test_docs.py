"""What README and docs show is run, and where they point there is something.

A ``python`` block runs after the blocks above it in its file, in an empty folder, with the names
that a reader brings along: `model` and `data`. One behind ``<!-- not run: reason -->`` is left out.
Pages whose blocks need more than that are run by a test of their own.
"""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader, TensorDataset

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
TESTED_ELSEWHERE = {"docs/history.md": "test_history_page.py"}
BLOCK = re.compile(r"(<!-- not run: .+? -->\n)?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|<img[^>]*\bsrc=\"([^\"]+)\"")


def name_of(page: Path) -> str:
    """Return a page's path, as test ids show it."""
    return str(page.relative_to(ROOT))


def blocks(text: str) -> list[str]:
    """Return the Python blocks that are to be run."""
    return [code for skipped, code in BLOCK.findall(text) if not skipped]


def prose(text: str) -> str:
    """Return a page without its blocks, in which nothing is a link or a heading."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """Return what links into a page may name, as code hosts derive it from headings."""
    headings = re.findall(r"^#+ (.+)$", prose(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """Return the links of a page that lead to no file or heading of the project."""
    broken = []
    for pair in LINK.findall(prose(page.read_text(encoding="utf-8"))):
        link = pair[0] or pair[1]
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (
            anchor and anchor not in anchors(target.read_text(encoding="utf-8"))
        ):
            broken.append(link)
    return broken


def what_a_reader_brings() -> dict[str, Any]:
    """Return a small classifier and its data."""

    class Classifier(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Sequential(
                torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)
            )

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            x, y = batch
            return torch.nn.functional.cross_entropy(self.net(x), y)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.05)

    x = torch.randn(64, 8)
    data = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=16)
    return {"__name__": "__main__", "model": Classifier(), "data": data}


def run_blocks(text: str, page: str, names: dict[str, Any]) -> None:
    """Run the blocks of a page one after the other; those with prompts as doctests."""
    for number, code in enumerate(blocks(text)):
        if code.startswith(">>>"):
            example = doctest.DocTestParser().get_doctest(code, names, page, page, number)
            failed = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(
                example, clear_globs=False
            )
            assert not failed.failed, f"{page}: block {number + 1}"
        else:
            exec(compile(code, f"{page}, block {number + 1}", "exec"), names)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_code_of_a_page_runs(page: Path) -> None:
    if name_of(page) in TESTED_ELSEWHERE:
        test = Path(__file__).with_name(TESTED_ELSEWHERE[name_of(page)])
        assert page.name in test.read_text(encoding="utf-8")
    else:
        names = what_a_reader_brings()
        run_blocks(page.read_text(encoding="utf-8"), name_of(page), names)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_make_targets_that_a_page_names_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    named = set(
        re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert named <= targets


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A `name`, and more\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "# Top\n[a](other.md#a-name-and-more) [b](#top) [c](https://example.org)\n"
        '```\n[not](a-link)\n```\n[d](gone.md) [e](other.md#gone) [f](#gone)\n<img src="g.png">',
        encoding="utf-8",
    )
    assert broken_links(page) == ["gone.md", "other.md#gone", "#gone", "g.png"]


def test_a_failing_block_is_found_and_a_marked_one_is_left_out() -> None:
    marked = "<!-- not run: needs an account -->\n```python\nraise SystemExit\n```\n"
    run_blocks(f"{marked}\n```python\nx = 1\n```\n\n```python\n>>> x\n1\n```\n", "page.md", {})
    with pytest.raises(ZeroDivisionError):
        run_blocks("```python\n1 / 0\n```\n", "page.md", {})
    with pytest.raises(AssertionError, match="block 1"):
        run_blocks("```python\n>>> 1 + 1\n3\n```\n", "page.md", {})
