"""The wheel that users install is what it says it is."""

from __future__ import annotations

import importlib.metadata
import os
import sysconfig
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import lightning_diag
from lightning_diag import auto

pytestmark = pytest.mark.skipif(
    os.environ.get("LIGHTNING_DIAG_TEST_WHEEL") != "1",
    reason="the source tree is being tested; `make test` tests the wheel",
)


def requirements() -> list[Requirement]:
    """Return the requirements of the installed wheel."""
    return [Requirement(line) for line in importlib.metadata.requires("lightning-diag") or []]


def test_the_installed_wheel_is_tested_and_not_the_source_tree(root: Path) -> None:
    package = Path(lightning_diag.__file__).resolve().parent
    assert package.parent in {
        Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")
    }
    assert package != root / "lightning_diag"


def test_the_wheel_holds_every_file_of_the_package(root: Path) -> None:
    def files(folder: Path) -> set[str]:
        paths = (path for path in folder.rglob("*") if path.is_file())
        return {
            str(path.relative_to(folder)) for path in paths if path.parent.name != "__pycache__"
        }

    assert files(Path(lightning_diag.__file__).parent) == files(root / "lightning_diag")


def test_the_wheel_says_its_version_and_its_command() -> None:
    assert importlib.metadata.version("lightning-diag") == lightning_diag.__version__
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="lightning-diag")
    assert callable(command.load())


@pytest.mark.parametrize("namespace", ["lightning.pytorch", "pytorch_lightning"])
def test_the_wheel_gives_both_lightnings_their_callbacks(namespace: str) -> None:
    """`LIGHTNING_DIAG=1 python train.py`; the groups' names are Lightning's."""
    group = f"{namespace}.callbacks_factory"
    (point,) = importlib.metadata.entry_points(group=group, name="lightning_diag")
    assert point.value == "lightning_diag.auto:callbacks"
    assert point.load() is auto.callbacks


def test_compromised_releases_of_both_lightnings_cannot_be_chosen() -> None:
    """P24: 2.6.2 and 2.6.3 steal credentials when imported."""
    lightnings = [
        requirement
        for requirement in requirements()
        if requirement.name in {"lightning", "pytorch-lightning"}
    ]
    assert {requirement.name for requirement in lightnings} == {"lightning", "pytorch-lightning"}
    for requirement in lightnings:
        assert not requirement.specifier.contains("2.6.2")
        assert not requirement.specifier.contains("2.6.3")
        assert requirement.specifier.contains("2.6.1")
        assert requirement.specifier.contains("2.6.4")


def test_the_excluded_releases_are_those_that_are_refused_at_import() -> None:
    """P24: an environment may have got one of them by another way."""
    from lightning_diag._compat import COMPROMISED

    for requirement in requirements():
        if requirement.name in {"lightning", "pytorch-lightning"}:
            excluded = {spec.version for spec in requirement.specifier if spec.operator == "!="}
            assert excluded == COMPROMISED


def test_a_bare_install_brings_neither_a_logger_nor_data() -> None:
    core = {requirement.name for requirement in requirements() if requirement.marker is None}
    assert core == {"pytorch-lightning", "torchmetrics", "torch", "rich", "jinja2"}


def test_no_requirement_keeps_a_project_from_upgrading() -> None:
    for requirement in requirements():
        assert not {spec.operator for spec in requirement.specifier} & {"<", "<=", "==", "~="}


def test_types_are_shipped() -> None:
    assert (Path(lightning_diag.__file__).parent / "py.typed").exists()
