"""The public names: all of them, no more, and each at no cost until it is used."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import lightning_diag

NAMES = [name for name in lightning_diag.__all__ if name != "__version__"]


def names_for_type_checkers() -> dict[str, str]:
    """Return the names that a type checker sees, with their modules."""
    tree = ast.parse(Path(lightning_diag.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.asname or alias.name: str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_type_checkers_see_what_programs_get() -> None:
    homes = {name: f"lightning_diag.{home}" for name, home in lightning_diag._HOMES.items()}
    assert names_for_type_checkers() == homes
    assert sorted(homes) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_public_name_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(lightning_diag, name)
    home = importlib.import_module(f"lightning_diag.{lightning_diag._HOMES[name]}")
    assert value is getattr(home, name)
    assert value.__doc__


def test_the_readme_lists_every_public_name_and_no_other(root: Path) -> None:
    text = (root / "README.md").read_text(encoding="utf-8")
    table = text.partition("## What is in it")[2].partition("\n## ")[0]
    firsts = re.findall(r"^\| ((?:`\w+` )+)\|", table, flags=re.MULTILINE)
    assert sorted(re.findall(r"\w+", " ".join(firsts))) == NAMES


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="'lightning_diag' has no attribute 'Docter'"):
        lightning_diag.Docter  # noqa: B018


def test_completion_lists_names_that_are_not_imported_yet(run_python: Callable[..., str]) -> None:
    code = "import lightning_diag; print(*dir(lightning_diag))"
    assert set(lightning_diag.__all__) <= set(run_python(code).split())


def modules_after(run_python: Callable[..., str], code: str, **options: bool) -> set[str]:
    """Return the packages that are imported after running some code."""
    names = run_python(f"import sys\n{code}\nprint(*sys.modules)", **options).split()
    return {name.split(".")[0] for name in names}


def test_importing_the_package_imports_only_the_standard_library(
    run_python: Callable[..., str],
) -> None:
    loaded = modules_after(run_python, "import lightning_diag")
    new = loaded - modules_after(run_python, "")
    assert new - sys.stdlib_module_names == {"lightning_diag"}


@pytest.mark.parametrize(
    "name", ["DiagWarning", "Evidence", "Finding", "History", "Record", "Rule"]
)
def test_words_are_used_without_torch(run_python: Callable[..., str], name: str) -> None:
    loaded = modules_after(run_python, f"from lightning_diag import {name}")
    assert not loaded & {"torch", "numpy", "lightning", "pytorch_lightning"}


def test_using_all_names_imports_no_logger_and_no_plotting(run_python: Callable[..., str]) -> None:
    lightnings = "import pytorch_lightning, lightning.pytorch"
    before = modules_after(run_python, lightnings, torch=True)
    after = modules_after(run_python, f"{lightnings}\nfrom lightning_diag import *", torch=True)
    heavy = {"wandb", "matplotlib", "plotly", "sklearn", "pandas", "tensorboard", "comet_ml"}
    assert "lightning_diag" in after
    assert not (after - before) & heavy
