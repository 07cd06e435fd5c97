"""Both Lightnings, either alone, and neither; never a compromised release (P23, P24, P25, P43)."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from collections.abc import Callable as Function
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

import lightning_diag
from lightning_diag import _compat
from lightning_diag._compat import Callback, MisconfigurationException, is_logger, namespace_of

RunPython = Function[..., str]
PUBLIC = [
    "ActivationMonitor",
    "DeadReLUTracker",
    "Doctor",
    "GradientMonitor",
    "LossMonitor",
    "UpdateRatioLogger",
]
NAMESPACES = ["pytorch_lightning", "lightning.pytorch"]
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "max_steps": 2,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Counter(Callback):
    """Counts batches; the smallest callback that has state."""

    def __init__(self, name: str = "counter") -> None:
        super().__init__(name=name)
        self.batches = 0

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.batches += 1

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.batches = state_dict["batches"]


@pytest.fixture
def _quiet_jsonargparse(monkeypatch: pytest.MonkeyPatch) -> None:
    """LightningCLI calls jsonargparse by names that jsonargparse has replaced."""
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


def make(name: str) -> Any:
    """Return a public callback with its default arguments."""
    return getattr(lightning_diag, name)()


def boring(lightning: ModuleType) -> Any:
    """Return Lightning's own smallest model."""
    demos = __import__(f"{lightning.__name__}.demos.boring_classes", fromlist=["BoringModel"])
    return demos.BoringModel()


def test_a_callback_is_one_of_each_namespace(lightning: ModuleType) -> None:
    assert isinstance(Counter(), lightning.Callback)


def test_a_trainer_a_module_and_a_logger_are_recognised(lightning: ModuleType) -> None:
    assert issubclass(lightning.Trainer, _compat.Trainer)
    assert issubclass(lightning.LightningModule, _compat.LightningModule)
    assert issubclass(lightning.loggers.Logger, _compat.Logger)


@pytest.mark.parametrize("alone", [True, False], ids=["single", "in a list"])
def test_the_trainer_of_either_runs_a_callback(lightning: ModuleType, alone: bool) -> None:
    counter = Counter()
    trainer = lightning.Trainer(callbacks=counter if alone else [counter], **QUIET)
    trainer.fit(boring(lightning))
    assert counter.batches == 2


@pytest.mark.parametrize("alone", [True, False], ids=["single", "in a list"])
@pytest.mark.parametrize("name", PUBLIC)
def test_the_trainer_of_either_runs_each_public_callback(
    lightning: ModuleType, name: str, alone: bool
) -> None:
    callback = make(name)
    trainer = lightning.Trainer(callbacks=callback if alone else [callback], **QUIET)
    trainer.fit(boring(lightning))
    assert trainer.global_step == 2


ONE_ALONE = """
import copy, pickle, sys, warnings

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

blocked, namespace, *names = sys.argv[1:]
sys.meta_path.insert(0, Absent())
import importlib
import lightning_diag
from lightning_diag._compat import NAMESPACES, Callback
assert list(NAMESPACES) == [namespace], NAMESPACES
lightning = importlib.import_module(namespace)
boring = importlib.import_module(f"{namespace}.demos.boring_classes")
warnings.filterwarnings("ignore", ".*does not have many workers")
warnings.filterwarnings("ignore", ".*LeafSpec")
for callback in [Callback(), *(getattr(lightning_diag, name)() for name in names)]:
    for given in (callback, [copy.deepcopy(callback)], [pickle.loads(pickle.dumps(callback))]):
        trainer = lightning.Trainer(
            callbacks=given, accelerator="cpu", max_steps=2, logger=False, barebones=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
        trainer.fit(boring.BoringModel())
        assert trainer.global_step == 2
assert not any(name.split(".")[0] == blocked for name in sys.modules)
print("done", len(names))
"""


@pytest.mark.parametrize(
    ("namespace", "blocked"),
    [("pytorch_lightning", "lightning"), ("lightning.pytorch", "pytorch_lightning")],
)
def test_one_lightning_is_enough(run_python: RunPython, namespace: str, blocked: str) -> None:
    """P23: with the other one's import blocked, every callback trains, copies and pickles.

    This shows that nothing here needs the other package at run time. It says nothing of how pip
    installs one without the other.
    """
    told = run_python(ONE_ALONE, blocked, namespace, *PUBLIC, torch=True)
    assert told.endswith(f"done {len(PUBLIC)}\n")


def test_without_any_lightning_the_error_names_the_fix(run_python: RunPython) -> None:
    code = """
import sys
sys.modules["lightning"] = sys.modules["pytorch_lightning"] = None
try:
    from lightning_diag._compat import Callback
except ImportError as error:
    print(error)
"""
    assert "run `pip install pytorch-lightning`" in run_python(code, torch=True)


def plant(folder: Path, distribution: str, version: str) -> Path:
    """Install a fake release that leaves a mark when it is imported; return where the mark goes."""
    mark = folder / "imported"
    package = folder / distribution.replace("-", "_")
    package.mkdir()
    code = f"open({str(mark)!r}, 'w').close()\nraise ImportError('a fake')"
    (package / "__init__.py").write_text(code, encoding="utf-8")
    info = folder / f"{package.name}-{version}.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    return mark


IMPORT_WITH_PLANTED = """
import sys
sys.path.insert(0, sys.argv[1])
try:
    from lightning_diag._compat import Callback
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize("version", ["2.6.2", "2.6.3"])
@pytest.mark.parametrize("distribution", ["lightning", "pytorch-lightning"])
def test_a_compromised_release_is_refused_before_it_runs(
    run_python: RunPython, tmp_path: Path, distribution: str, version: str
) -> None:
    """P24: the releases steal credentials when imported, so not one line of them may run."""
    mark = plant(tmp_path, distribution, version)
    message = run_python(IMPORT_WITH_PLANTED, str(tmp_path), torch=True)
    assert not mark.exists()
    assert f"{distribution} {version}" in message
    assert f"pip install --upgrade '{distribution}>=2.6.4'" in message


@pytest.mark.parametrize("distribution", ["lightning", "pytorch-lightning"])
def test_a_release_that_is_not_compromised_is_imported(
    run_python: RunPython, tmp_path: Path, distribution: str
) -> None:
    """The counterpart of the test above: the planted release would have left its mark."""
    mark = plant(tmp_path, distribution, "2.6.4")
    run_python(IMPORT_WITH_PLANTED, str(tmp_path), torch=True)
    assert mark.exists()


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_a_users_silence_is_kept(run_python: RunPython, namespace: str) -> None:
    """Importing the other namespace would send its Trainer's lines through another logger."""
    code = """
import importlib, logging, sys
lightning = importlib.import_module(sys.argv[1])
logging.getLogger(sys.argv[1]).setLevel(logging.ERROR)
import lightning_utilities.core.rank_zero as rank_zero
before = rank_zero.log, rank_zero.rank_zero_deprecation_category
import lightning_diag._compat as compat
assert len(compat.NAMESPACES) == 2
assert (rank_zero.log, rank_zero.rank_zero_deprecation_category) == before
logging.basicConfig(stream=sys.stdout, level=logging.INFO, force=True)
lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
"""
    assert run_python(code, namespace, torch=True) == ""


def test_the_exception_is_caught_as_that_of_either_namespace(lightning: ModuleType) -> None:
    theirs = __import__(f"{lightning.__name__}.utilities.exceptions", fromlist=["exceptions"])
    with pytest.raises(theirs.MisconfigurationException, match="no logger"):
        raise MisconfigurationException("no logger")


def test_the_namespace_of_a_trainer_is_known(lightning: ModuleType) -> None:
    class MyTrainer(lightning.Trainer):  # type: ignore[misc, name-defined]
        pass

    assert namespace_of(MyTrainer(**QUIET)) == lightning.__name__
    assert namespace_of(boring(lightning)) == lightning.__name__
    assert namespace_of(torch.nn.Linear(1, 1)) is None


def test_a_logger_is_known_by_name_in_either_namespace(
    lightning: ModuleType, tmp_path: Path
) -> None:
    logger = lightning.loggers.CSVLogger(tmp_path)
    assert is_logger(logger, "CSVLogger")
    assert not is_logger(logger, "WandbLogger")


def test_the_state_key_is_fixed_at_construction() -> None:
    """P25: a key that changes later is a state that is not restored."""
    counter = Counter(name="first")
    key = counter.state_key
    assert key == "Counter{'name': 'first'}"
    counter.name = "second"  # type: ignore[attr-defined]
    assert counter.state_key == key
    assert pickle.loads(pickle.dumps(counter)).state_key == key


def test_a_subclass_that_skips_our_constructor_still_has_a_key() -> None:
    class Careless(Callback):
        def __init__(self) -> None:
            pass

    assert Careless().state_key.endswith("Careless")


def test_two_instances_in_one_trainer_restore_separately(
    lightning: ModuleType, tmp_path: Path
) -> None:
    """P25."""
    epochs = {**QUIET, "max_steps": -1, "limit_train_batches": 2}
    first, second = Counter("first"), Counter("second")
    second.batches = 10
    trainer = lightning.Trainer(callbacks=[first, second], max_epochs=1, **epochs)
    trainer.fit(boring(lightning))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    states = torch.load(tmp_path / "run.ckpt", weights_only=True)["callbacks"]
    assert states[first.state_key] == {"batches": 2}
    assert states[second.state_key] == {"batches": 12}

    first, second = Counter("first"), Counter("second")
    trainer = lightning.Trainer(callbacks=[first, second], max_epochs=2, **epochs)
    trainer.fit(boring(lightning), ckpt_path=tmp_path / "run.ckpt")
    assert (first.batches, second.batches) == (4, 14)


@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_callback_has_a_key_of_its_own(name: str) -> None:
    callback = make(name)
    assert callback.state_key.startswith(name)
    assert callback.state_key == make(name).state_key


@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_each_public_callback_copies_and_pickles_before_fit(
    name: str, duplicate: Function[[Any], Any]
) -> None:
    """Spawned processes, sweeps and `deepcopy` of a Trainer's arguments need it."""
    callback = make(name)
    twin = duplicate(callback)
    assert type(twin) is type(callback)
    assert twin.state_key == callback.state_key
    assert vars(twin).keys() == vars(callback).keys()


@pytest.mark.parametrize("name", PUBLIC)
def test_every_argument_of_a_public_callback_is_typed_and_defaulted(name: str) -> None:
    """P43: a callback without arguments cannot be configured in a YAML file."""
    parameters = inspect.signature(getattr(lightning_diag, name)).parameters.values()
    assert parameters
    for parameter in parameters:
        assert parameter.kind in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}
        assert parameter.annotation is not parameter.empty, parameter
        assert json.dumps(parameter.default) != "", parameter


def run_cli(lightning: ModuleType, *args: str) -> Any:
    """Build what a command line describes, with LightningCLI, without training."""
    cli = __import__(f"{lightning.__name__}.cli", fromlist=["LightningCLI"])
    return cli.LightningCLI(
        type(boring(lightning)),
        run=False,
        args=["--trainer.accelerator=cpu", "--trainer.logger=false", *args],
        save_config_callback=None,
        seed_everything_default=0,
    )


def printed_config(
    lightning: ModuleType, capsys: pytest.CaptureFixture[str], *args: str
) -> dict[str, Any]:
    """Return what `--print_config` prints for a command line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_cli(lightning, *args, "--print_config")
    assert stop.value.code == 0
    config: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return config


def ours(callbacks: list[Any]) -> list[Any]:
    """Return the callbacks that this package defines."""
    return [each for each in callbacks if type(each).__module__.startswith("lightning_diag.")]


@pytest.mark.usefixtures("_quiet_jsonargparse")
@pytest.mark.parametrize("alone", [True, False], ids=["single", "in a list"])
@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_callback_survives_a_round_trip_through_yaml(
    lightning: ModuleType,
    name: str,
    alone: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """P43: what `--print_config` prints builds the same callback."""
    option = "--trainer.callbacks" if alone else "--trainer.callbacks+"
    config = printed_config(lightning, capsys, f"{option}=lightning_diag.{name}")
    entry = config["trainer"]["callbacks"]
    arguments = entry["init_args"] if alone else entry[0]["init_args"]
    assert list(arguments) == list(inspect.signature(getattr(lightning_diag, name)).parameters)

    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    (callback,) = ours(run_cli(lightning, f"--config={path}").trainer.callbacks)
    assert type(callback).__name__ == name
    assert callback.state_key == make(name).state_key
    assert printed_config(lightning, capsys, f"--config={path}") == config


@pytest.mark.usefixtures("_quiet_jsonargparse")
@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_callback_can_be_named_by_its_class_alone(
    lightning: ModuleType, name: str
) -> None:
    (callback,) = ours(run_cli(lightning, f"--trainer.callbacks={name}").trainer.callbacks)
    assert type(callback).__name__ == name


@pytest.mark.usefixtures("_quiet_jsonargparse")
@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_callback_can_be_forced_into_a_command_line(
    lightning: ModuleType, name: str
) -> None:
    """P43: `add_lightning_class_args` refuses classes that are no callback of its namespace."""
    cli = __import__(f"{lightning.__name__}.cli", fromlist=["LightningCLI"])

    class WithCallback(cli.LightningCLI):  # type: ignore[misc, name-defined]
        def add_arguments_to_parser(self, parser: Any) -> None:
            parser.add_lightning_class_args(getattr(lightning_diag, name), "diag")

    built = WithCallback(
        type(boring(lightning)),
        run=False,
        args=["--trainer.accelerator=cpu", "--trainer.logger=false"],
        seed_everything_default=0,
    )
    assert [type(each).__name__ for each in ours(built.trainer.callbacks)] == [name]
