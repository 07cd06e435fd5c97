"""Numbers flow one way: what each part of the package must never import.

The table is the one of `docs/architecture.md`, read from the source with `ast`, so that an import
inside a function or for type checkers alone counts too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import lightning_diag

PACKAGE = Path(lightning_diag.__file__).resolve().parent
LIGHTNINGS = {"lightning", "pytorch_lightning", "lightning_fabric"}
OPTIONAL = {"wandb", "sklearn", "matplotlib", "plotly", "tensorboard", "tqdm", "jsonargparse"} | {
    "optuna",
    "pandas",
    "pyarrow",
    "safetensors",
}
ACTORS = {"monitors", "probe", "doctor", "checks", "lr", "transfer", "hard", "weights", "cli"} | {
    "attach",
    "auto",
    "before_training",
}
WORDS = {"batch_size", "finding", "history", "misfits", "record", "siblings", "splits"} | {
    "thresholds",
    "warning",
    "wording",
}

# Part of the package -> parts that it must never import.
NEVER: dict[str, set[str]] = {
    **dict.fromkeys(WORDS, ACTORS | {"rules", "report", "measure", "loggers", "_compat"}),
    "rules": ACTORS | {"report", "measure", "loggers", "_compat"},
    "report": ACTORS | {"measure", "_compat"},
    "figures": ACTORS | {"rules", "report", "measure", "loggers", "_compat"},
    "measure": ACTORS | {"rules", "report", "loggers", "_compat"},
    "probe": {"rules", "report", "monitors", "doctor", "cli"},
    "monitors": {"rules", "report", "loggers", "doctor", "cli", "lr"},
    "checks": {"rules", "report", "monitors", "loggers", "doctor", "cli", "before_training"},
    "hard": {"rules", "report", "monitors", "loggers", "doctor", "cli"},
    "clipping": {"rules", "report", "probe", "monitors", "loggers", "doctor", "cli", "measure"},
    "initialisation": ACTORS | {"rules", "report", "loggers", "_compat", "history", "record"},
    "loggers": ACTORS | {"measure"},
    "lr": {"rules", "report", "probe", "monitors", "loggers", "doctor", "cli"},
    "stopping": {"rules", "report", "probe", "monitors", "loggers", "doctor", "cli", "measure"},
    "transfer": {"rules", "report", "probe", "monitors", "loggers", "doctor", "cli", "measure"},
}
# A loss joins ranks in the middle of a step, with no trainer to ask.
KNOW_RANKS = {("measure", "tally"), ("hard", "pooled")}
NO_TORCH = WORDS | {"rules", "report", "figures"}


def imports(path: Path, package: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the full name of all that a file imports."""
    here = ["lightning_diag", *path.relative_to(package).with_suffix("").parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                yield node.lineno, ".".join([*base, alias.name])
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.distributed":
            yield node.lineno, "torch.distributed"


def resolve(name: str) -> list[str]:
    """Split a full name, with the public names of the package put where they are defined."""
    bits = name.split(".")
    if bits[0] == "lightning_diag" and len(bits) > 1 and bits[1] in lightning_diag._HOMES:
        return ["lightning_diag", *lightning_diag._HOMES[bits[1]].split("."), bits[1]]
    return bits


def breaches(package: Path) -> list[str]:
    """Return every import that the architecture forbids, as `file:line: what`."""
    found = []
    for path in sorted(package.rglob("*.py")):
        inner = path.relative_to(package)
        if str(inner) == "__init__.py":
            continue
        part = inner.parts[0].removesuffix(".py")
        for line, name in imports(path, package):
            reason = forbidden(part, inner.stem, name)
            if reason:
                found.append(f"{inner}:{line}: {reason}")
    return found


def forbidden(part: str, stem: str, name: str) -> str | None:
    """Say why a part, in its file of that stem, must not import a name; None if it may."""
    top, *rest = resolve(name)
    target = rest[0] if rest and top == "lightning_diag" else None
    reasons = {
        f"{part} imports {target}": target in NEVER.get(part, set()),
        f"{part} imports cli": target == "cli" and part not in {"cli", "__main__"},
        f"{part} is words, and imports torch": top == "torch" and part in NO_TORCH,
        f"{part} imports {top}, which only _compat may": top in LIGHTNINGS and part != "_compat",
        f"a monitor imports another: {name}": (
            part == target == "monitors" and rest[1] not in {"base", stem}
        ),
        f"{part} knows that ranks exist, which only measure/tally.py may": (
            name.startswith("torch.distributed") and (part, stem) not in KNOW_RANKS
        ),
    }
    return next((reason for reason, broken in reasons.items() if broken), None)


def top_level_imports(tree: ast.Module) -> set[str]:
    """Return the packages that are imported as soon as the module is."""
    names: set[str] = set()
    pending: list[ast.stmt] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending.extend(node.orelse)
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending.extend(child for child in ast.walk(node) if isinstance(child, ast.stmt))
            pending = [child for child in pending if child is not node]
    return names


def test_no_part_imports_what_it_must_never_know() -> None:
    assert breaches(PACKAGE) == []


def test_optional_packages_are_imported_only_where_they_are_used() -> None:
    for path in PACKAGE.rglob("*.py"):
        names = top_level_imports(ast.parse(path.read_text(encoding="utf-8")))
        assert not names & OPTIONAL, path


@pytest.mark.parametrize(
    ("file", "code", "reason"),
    [
        ("rules/dead_relu.py", "import torch", "rules is words, and imports torch"),
        ("rules/dead_relu.py", "def f():\n    from torch import nn", "imports torch"),
        ("rules/dead_relu.py", "from lightning_diag import Doctor", "rules imports doctor"),
        ("report/html.py", "from ..probe import schedule", "report imports probe"),
        ("measure/norm.py", "from lightning_diag.rules.base import Rule", "imports rules"),
        ("measure/norm.py", "import torch.distributed as dist", "ranks exist"),
        ("measure/norm.py", "from torch import distributed", "ranks exist"),
        ("probe/tally.py", "import torch.distributed as dist", "ranks exist"),
        ("probe/probe.py", "import torch\ntorch.distributed.get_rank()", "ranks exist"),
        ("probe/probe.py", "import pytorch_lightning as pl", "only _compat may"),
        ("monitors/loss.py", "from lightning_diag.loggers import wandb", "imports loggers"),
        ("monitors/loss.py", "from .gradient import GradientMonitor", "imports another"),
        ("monitors/loss.py", "from lightning_diag import GradientMonitor", "imports another"),
        ("doctor.py", "import lightning_diag.cli", "doctor imports cli"),
        ("finding.py", "from lightning_diag import history, doctor", "finding imports doctor"),
    ],
)
def test_a_breach_is_found(tmp_path: Path, file: str, code: str, reason: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code, encoding="utf-8")
    (breach,) = breaches(tmp_path)
    assert breach.startswith(file)
    assert reason in breach


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("rules/dead_relu.py", "from lightning_diag.rules.base import Rule\nimport math"),
        ("rules/dead_relu.py", "from lightning_diag import Finding, History"),
        ("monitors/loss.py", "from lightning_diag.monitors.base import Monitor"),
        ("measure/tally.py", "import torch.distributed"),
        ("doctor.py", "from lightning_diag import rules, monitors, report, loggers"),
        ("__main__.py", "from lightning_diag.cli import main"),
    ],
)
def test_what_is_allowed_is_no_breach(tmp_path: Path, file: str, code: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code, encoding="utf-8")
    assert breaches(tmp_path) == []


def test_an_optional_package_at_the_top_is_found_and_in_a_function_is_not() -> None:
    eager = "try:\n    import wandb\nexcept ImportError:\n    pass"
    lazy = "def f():\n    import wandb"
    typing = "if TYPE_CHECKING:\n    import wandb"
    assert top_level_imports(ast.parse(eager)) == {"wandb"}
    assert top_level_imports(ast.parse(lazy)) == set()
    assert top_level_imports(ast.parse(typing)) == set()


def test_words_rules_and_report_need_neither_torch_nor_lightning(
    run_python: Callable[..., str],
) -> None:
    """A history is read, judged and drawn on a machine that has no torch."""
    modules = [
        ".".join(["lightning_diag", *path.relative_to(PACKAGE).with_suffix("").parts])
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0].removesuffix(".py") in NO_TORCH
    ]
    code = f"""
import importlib, sys
for name in ("torch", "lightning", "pytorch_lightning", "lightning_utilities"):
    sys.modules[name] = None
for name in {[module.removesuffix(".__init__") for module in modules]!r}:
    importlib.import_module(name)
    print(name)
"""
    assert len(run_python(code).split()) == len(modules) > 2


def test_the_architecture_names_every_part_of_the_package(root: Path) -> None:
    text = (root / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition("## Folders")[2].partition("\n## ")[0]
    first_cells = re.findall(r"^\| (.+?) \|", table, flags=re.MULTILINE)
    named = {
        name.rstrip("/").removesuffix(".py")
        for cell in first_cells
        for name in re.findall(r"`(.+?)`", cell)
    }
    present = {
        path.stem
        for path in PACKAGE.iterdir()
        if (path.is_dir() or path.suffix == ".py") and not path.stem.startswith("__")
    }
    assert present <= named
