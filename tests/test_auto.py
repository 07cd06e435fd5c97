"""`LIGHTNING_DIAG=1 python train.py`: a script that knows nothing of this package is watched."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import warm
from runs import Evaluated, data
from zero_code import QUIET, SCRIPT, WRITTEN, doctors, entry_points, files, module_of

import lightning_diag
from lightning_diag import DiagWarning, Doctor, History, attach, auto
from lightning_diag.attach import AttachDoctor

RunPython = Callable[..., str]
GROUPS = ("lightning.pytorch.callbacks_factory", "pytorch_lightning.callbacks_factory")
FABRICS = {"pytorch_lightning": "lightning_fabric", "lightning.pytorch": "lightning.fabric"}


@pytest.fixture
def installed(root: Path, tmp_path: Path) -> Path:
    """Return a folder that, on the path, looks like an installation of this source."""
    folder = tmp_path / "site" / f"lightning_diag-{lightning_diag.__version__}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: lightning-diag\nVersion: 0\n")
    (folder / "entry_points.txt").write_text(entry_points(root))
    return folder.parent


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("LIGHTNING_DIAG"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(attach, "_said", set())


@pytest.fixture
def on(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch it on, in a folder that holds nothing."""
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.setenv("LIGHTNING_DIAG", "1")
    folder = installed.parent / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)


@pytest.mark.parametrize("value", [None, "", "0", "false", "False", " no ", "OFF"])
def test_it_is_off_unless_the_variable_says_on(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv("LIGHTNING_DIAG", value)
    assert auto.callbacks() == []


@pytest.mark.parametrize("value", ["1", "true", "yes", "on"])
def test_each_other_value_is_on(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_DIAG", value)
    (callback,) = auto.callbacks()
    assert isinstance(callback, AttachDoctor)


def test_both_lightnings_have_the_entry_point(root: Path) -> None:
    expected = [f"[{group}]\nlightning_diag = lightning_diag.auto:callbacks\n" for group in GROUPS]
    assert entry_points(root) == "".join(expected)


def test_off_it_imports_two_small_modules_and_nothing_else(
    installed: Path, run_python: RunPython
) -> None:
    """Without the entry point the same trainer imports all but these two."""
    code = f"""
import importlib, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, {str(installed)!r})
for namespace, fabric in {FABRICS!r}.items():
    lightning = importlib.import_module(namespace)
    registry = importlib.import_module(f"{{fabric}}.utilities.registry")
    entry_points, registry.entry_points = registry.entry_points, lambda group: []
    lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    without = set(sys.modules)
    assert not any(name.startswith("lightning_diag") for name in without)
    registry.entry_points = entry_points
    lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    off = set(sys.modules) - without
    print("modules", *(off - sys.stdlib_module_names))
    for name in off:
        del sys.modules[name]
"""
    told = run_python(code, torch=True).splitlines()
    imported = [set(line.split()[1:]) for line in told if line.startswith("modules")]
    assert imported == [{"lightning_diag", "lightning_diag.auto"}] * 2


def test_on_it_imports_neither_a_logger_nor_plotting(
    installed: Path, run_python: RunPython
) -> None:
    """A fit and its report included."""
    script = SCRIPT.format(namespace="pytorch_lightning", options="{}")
    start = f"""
import os, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, {str(installed)!r})
import lightning.pytorch, pytorch_lightning
heavy = {{"wandb", "matplotlib", "plotly", "pandas", "pyarrow", "sklearn", "comet_ml"}}
before = {{name.partition(".")[0] for name in sys.modules}}
os.environ["LIGHTNING_DIAG"] = "1"
"""
    end = """
assert "lightning_diag.doctor" in sys.modules
print("heavy:", *{name.partition(".")[0] for name in sys.modules} - before & heavy)
"""
    assert run_python(f"{start}{script}{end}", torch=True).splitlines()[-1] == "heavy:"


@pytest.mark.usefixtures("on")
def test_a_fit_is_watched_by_one_doctor(lightning: ModuleType) -> None:
    trainer = lightning.Trainer(**QUIET)
    trainer.fit(module_of(lightning), data())
    (doctor,) = doctors(trainer)
    assert doctor.history.steps == [0, 1, 2, 3]
    assert files() == WRITTEN
    assert History.open(".").steps == doctor.history.steps


@pytest.mark.usefixtures("on")
def test_a_second_fit_has_the_same_doctor() -> None:
    import pytorch_lightning as pl

    trainer, module = pl.Trainer(**QUIET), module_of(pl)
    trainer.fit(module, data())
    first = doctors(trainer)
    trainer.fit_loop.epoch_loop.max_steps = 6
    trainer.fit(module, data())
    assert doctors(trainer) == first
    assert len(first) == 1


@pytest.mark.usefixtures("on")
@pytest.mark.filterwarnings("ignore:.*GPU available but not used")
def test_a_fit_after_a_search_for_the_rate_has_one_doctor(lightning: ModuleType) -> None:
    """The search runs a fit of its own, in which callbacks come and go."""
    trainer = lightning.Trainer(**QUIET)
    module = module_of(lightning)
    module.lr = 0.1
    tuner = importlib.import_module(f"{lightning.__name__}.tuner").Tuner(trainer)
    tuner.lr_find(module, data(samples=200), num_training=12)
    trainer.fit(module, data())
    (doctor,) = doctors(trainer)
    assert doctor.history.steps == [0, 1, 2, 3]


class MyDoctor(Doctor):
    """A script's own kind."""


@pytest.mark.usefixtures("on")
@pytest.mark.parametrize("kind", [Doctor, MyDoctor])
def test_a_doctor_of_the_script_stays_the_only_one(
    lightning: ModuleType, kind: type[Doctor]
) -> None:
    own = kind(every_n_steps=2)
    trainer = lightning.Trainer(callbacks=[own], **QUIET)
    trainer.fit(module_of(lightning), data())
    assert doctors(trainer) == [own]
    assert files() == WRITTEN


@pytest.mark.usefixtures("on")
@pytest.mark.parametrize("kind", [Doctor, MyDoctor])
def test_a_doctor_of_the_module_stays_the_only_one(
    lightning: ModuleType, kind: type[Doctor]
) -> None:
    own = kind()
    module = module_of(lightning, configure_callbacks=lambda self: [own])
    trainer = lightning.Trainer(**QUIET)
    trainer.fit(module, data())
    assert doctors(trainer) == [own]


@pytest.mark.usefixtures("on")
def test_trainers_that_share_a_list_of_callbacks_have_a_doctor_each(
    lightning: ModuleType,
) -> None:
    """Lightning adds what it is given by entry points to the script's own list."""
    shared = [lightning.Callback()]
    trainers = [lightning.Trainer(callbacks=shared, **QUIET) for _ in range(3)]
    for trainer in trainers:
        trainer.fit(module_of(lightning), data())
    found = [doctors(trainer) for trainer in trainers]
    assert [len(one) for one in found] == [1, 1, 1]
    assert len({id(doctor) for one in found for doctor in one}) == 3
    assert not any(isinstance(callback, Doctor) for callback in shared)


@pytest.mark.usefixtures("on")
@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_without_training_there_is_no_trace(lightning: ModuleType, stage: str) -> None:
    steps = {k: v for k, v in vars(Evaluated).items() if k.endswith("_step")}
    quiet: dict[str, Any] = {} if stage == "predict" else {"verbose": False}
    trainer = lightning.Trainer(**QUIET)
    getattr(trainer, stage)(module_of(lightning, **steps), data(), **quiet)
    assert doctors(trainer) == []
    assert files() == []


@pytest.mark.usefixtures("on")
def test_a_fast_dev_run_leaves_no_files(lightning: ModuleType) -> None:
    trainer = lightning.Trainer(
        fast_dev_run=2, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False
    )
    trainer.fit(module_of(lightning), data())
    assert len(doctors(trainer)) == 1
    assert files() == []


@pytest.mark.usefixtures("on")
def test_a_checkpoint_goes_on_with_and_without_the_variable(
    monkeypatch: pytest.MonkeyPatch, lightning: ModuleType
) -> None:
    """What was remembered passes from an attached Doctor to a script's own, and back."""

    def fit(last: int, *callbacks: Any) -> Doctor:
        trainer = lightning.Trainer(callbacks=list(callbacks), **{**QUIET, "max_steps": last})
        resumed = {"ckpt_path": "a.ckpt"} if Path("a.ckpt").exists() else {}
        trainer.fit(module_of(lightning), data(samples=16), **resumed)
        trainer.save_checkpoint("a.ckpt")
        (doctor,) = doctors(trainer)
        return doctor

    fit(2)
    monkeypatch.setenv("LIGHTNING_DIAG", "0")
    assert fit(4, Doctor()).history.steps == [0, 1, 2, 3]
    monkeypatch.setenv("LIGHTNING_DIAG", "1")
    assert fit(6).history.steps == [0, 1, 2, 3, 4, 5]


@pytest.mark.usefixtures("on")
def test_options_come_from_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import pytorch_lightning as pl

    monkeypatch.setenv("LIGHTNING_DIAG_DIRPATH", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("LIGHTNING_DIAG_EVERY_N_STEPS", "7")
    trainer = pl.Trainer(**QUIET)
    trainer.fit(module_of(pl), data())
    (doctor,) = doctors(trainer)
    assert doctor.every_n_steps == 7
    assert files() == []
    assert History.open(tmp_path / "elsewhere").steps


@pytest.mark.usefixtures("on")
def test_a_wrong_value_is_said_once_and_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    import pytorch_lightning as pl

    monkeypatch.setenv("LIGHTNING_DIAG_EVERY_N_STEPS", "often")
    for _ in range(2):
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            trainer = pl.Trainer(**QUIET)
            trainer.fit(module_of(pl), data())
        ours = [warning for warning in heard if warning.category is DiagWarning]
        assert len(doctors(trainer)) == 1
        if _ == 0:
            (said,) = ours
            assert str(said.message).endswith("got 'often'. Doctor goes on without it.")
    assert ours == []


@pytest.mark.usefixtures("on")
def test_a_package_that_cannot_be_imported_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    import pytorch_lightning as pl

    monkeypatch.setitem(sys.modules, "lightning_diag.attach", None)
    with pytest.warns(DiagWarning, match="LIGHTNING_DIAG is set, and Doctor cannot be attached"):
        trainer = pl.Trainer(**QUIET)
    trainer.fit(module_of(pl), data())
    assert files() == []


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    "namespace", ["lightning.pytorch", pytest.param("pytorch_lightning", marks=pytest.mark.slow)]
)
def test_processes_that_lightning_starts_are_watched_together(
    namespace: str, installed: Path, tmp_path: Path
) -> None:
    """The script itself is started again for the second rank, and inherits the variable."""
    from distributed.launch import HOME, environment

    options = "{'strategy': 'ddp', 'devices': 2}"
    (tmp_path / "train.py").write_text(SCRIPT.format(namespace=namespace, options=options))
    places = os.pathsep.join([str(installed), str(HOME)])
    on = environment(LIGHTNING_DIAG="1", PYTHONPATH=places)
    result = warm.run_python(["train.py"], tmp_path, on, strict=False)
    assert result.returncode == 0, result.stderr
    found = [path.relative_to(tmp_path) for path in tmp_path.rglob("history*.jsonl")]
    assert found == [Path("lightning_diag/history.jsonl")]
    assert History.open(tmp_path).meta["trainer"]["world_size"] == 2


@pytest.fixture
def page(root: Path) -> str:
    return (root / "docs" / "zero-code.md").read_text(encoding="utf-8")


def test_the_commands_of_the_page_run(
    page: str, installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.py").write_text(SCRIPT.format(namespace="lightning.pytorch", options="{}"))
    (tmp_path / "bin").mkdir()
    noted = '#!/bin/sh\nprintf "%s\\n" "$@" > arguments\nenv -0 > environment\n'
    (tmp_path / "bin" / "python").write_text(noted)
    (tmp_path / "bin" / "python").chmod(0o755)
    home = Path(lightning_diag.__file__).resolve().parent.parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(installed), str(home)]))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    commands = re.findall(r"^```sh\n(.+?)\n```$", page, re.MULTILINE | re.DOTALL)
    assert len(commands) == 2
    for i, command in enumerate(commands):
        subprocess.run(["sh", "-c", command], timeout=100, check=True)
        variables = Path("environment").read_text().rstrip("\0").split("\0")
        run = warm.run_python(
            Path("arguments").read_text().split(),
            tmp_path,
            dict(each.split("=", 1) for each in variables),
            strict=False,
        )
        assert run.returncode == 0, run.stderr
        assert len(list(tmp_path.glob("lightning_diag*/history.jsonl"))) == i + 1
