"""Schedules as schedulers of torch's kind: groups, tensors, resume, LightningCLI (L4, P21)."""

from __future__ import annotations

import copy
import importlib
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import ChainedScheduler, LinearLR, LRScheduler, SequentialLR

from lightning_diag.lr import curves, schedules
from lightning_diag.lr.schedules import (
    ClosedFormLR,
    ExponentialDecayLR,
    InverseSquareRootLR,
    PiecewiseConstantLR,
    PowerLR,
    WarmRestartsLR,
    WarmupStableDecayLR,
)


class Case(NamedTuple):
    """A scheduler and the curve that it must follow."""

    kind: Callable[..., LRScheduler]
    curve: Callable[..., float]
    arguments: dict[str, Any]

    def make(self, optimizer: Optimizer, **more: Any) -> LRScheduler:
        return self.kind(optimizer, **self.arguments, **more)

    def at(self, t: int) -> float:
        return self.curve(t, **self.arguments)


CASES = [
    Case(PowerLR, curves.power, {"timescale": 5.0, "exponent": 0.5}),
    Case(ExponentialDecayLR, curves.exponential, {"steps_per_decade": 20.0}),
    Case(
        PiecewiseConstantLR,
        curves.piecewise_constant,
        {"total_steps": 24, "milestones": [0.25, 0.5], "factors": [0.5, 0.1]},
    ),
    Case(
        WarmRestartsLR,
        curves.warm_restarts,
        {"cycle_steps": 6, "cycle_growth": 2, "peak_decay": 0.5, "warmup_steps": 2},
    ),
    Case(
        WarmupStableDecayLR,
        curves.wsd,
        {"total_steps": 24, "warmup_steps": 4, "decay_fraction": 0.5, "start_factor": 0.25},
    ),
    Case(InverseSquareRootLR, curves.inverse_sqrt, {"warmup_steps": 4, "timescale": 9.0}),
]
each_schedule = pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind.__name__)


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.zeros(2))


def groups(*lrs: float | Tensor) -> SGD:
    """Return an optimizer with a group for each learning rate."""
    return SGD([{"params": [parameter()], "lr": lr} for lr in lrs], lr=1.0)


def rates(optimizer: Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def walk(optimizer: Optimizer, scheduler: LRScheduler, steps: int) -> list[list[float]]:
    """Return the learning rates of each of the next steps."""
    seen = []
    for _ in range(steps):
        seen.append(rates(optimizer))
        assert [float(lr) for lr in scheduler.get_last_lr()] == seen[-1]
        optimizer.step()
        scheduler.step()
    return seen


def test_every_schedule_of_the_module_is_tested() -> None:
    public = {
        kind
        for kind in vars(schedules).values()
        if isinstance(kind, type) and issubclass(kind, ClosedFormLR) and kind is not ClosedFormLR
    }
    assert {case.kind for case in CASES} == public


@each_schedule
def test_each_group_follows_the_curve_from_its_own_learning_rate(case: Case) -> None:
    optimizer = groups(0.1, 0.003)
    scheduler = case.make(optimizer)
    expected = [[0.1 * case.at(t), 0.003 * case.at(t)] for t in range(40)]
    assert walk(optimizer, scheduler, 40) == expected


@each_schedule
def test_a_tensor_stays_the_same_tensor_and_its_initial_value_is_kept(case: Case) -> None:
    lr = torch.tensor(0.5, dtype=torch.float64)
    optimizer = Adam([parameter()], lr=lr)
    scheduler = case.make(optimizer)
    for t, (rate,) in enumerate(walk(optimizer, scheduler, 30)):
        assert rate == 0.5 * case.at(t)
    (group,) = optimizer.param_groups
    assert group["lr"] is lr
    assert float(group["initial_lr"]) == 0.5
    assert all(isinstance(last, Tensor) for last in scheduler.get_last_lr())


@each_schedule
def test_what_is_set_from_outside_does_not_drift_into_the_next_step(case: Case) -> None:
    optimizer = groups(0.1)
    scheduler = case.make(optimizer)
    walk(optimizer, scheduler, 7)
    optimizer.param_groups[0]["lr"] = 123.0
    optimizer.step()
    scheduler.step()
    assert rates(optimizer) == [0.1 * case.at(8)]


@each_schedule
@pytest.mark.parametrize("tensor", [False, True])
def test_a_resumed_schedule_goes_on_as_one_that_never_stopped(case: Case, tensor: bool) -> None:
    def start() -> SGD:
        return groups(*(torch.tensor(lr) if tensor else lr for lr in (0.1, 0.02)))

    optimizer = start()
    whole = walk(optimizer, case.make(optimizer), 30)
    optimizer = start()
    scheduler = case.make(optimizer)
    first = walk(optimizer, scheduler, 11)
    torch.save({"o": optimizer.state_dict(), "s": scheduler.state_dict()}, "checkpoint.pt")

    optimizer = start()
    scheduler = case.make(optimizer)
    saved = torch.load("checkpoint.pt", weights_only=True)
    optimizer.load_state_dict(saved["o"])
    scheduler.load_state_dict(saved["s"])
    assert first + walk(optimizer, scheduler, 19) == whole


@each_schedule
def test_last_epoch_begins_where_it_says(case: Case) -> None:
    optimizer = groups(0.1)
    with pytest.raises(KeyError, match="initial_lr"):
        case.make(optimizer, last_epoch=6)
    optimizer.param_groups[0]["initial_lr"] = 0.2
    scheduler = case.make(optimizer, last_epoch=6)
    assert walk(optimizer, scheduler, 9) == [[0.2 * case.at(t)] for t in range(7, 16)]


@each_schedule
def test_a_group_that_joins_later_follows_too(case: Case) -> None:
    """P21: as when layers are unfrozen."""
    optimizer = groups(0.1)
    scheduler = case.make(optimizer)
    walk(optimizer, scheduler, 5)
    optimizer.add_param_group({"params": [parameter()], "lr": 0.7})
    optimizer.add_param_group({"params": [parameter()], "lr": 9.0, "initial_lr": 0.3})
    optimizer.step()
    scheduler.step()
    assert rates(optimizer) == [lr * case.at(6) for lr in (0.1, 0.7, 0.3)]
    state = scheduler.state_dict()
    again = case.make(groups(0.1, 0.7, 0.3))
    again.load_state_dict(state)
    assert again.get_last_lr() == rates(optimizer)


@each_schedule
def test_it_is_pickled_and_copied_with_its_optimizer(case: Case) -> None:
    optimizer = groups(0.1)
    scheduler = case.make(optimizer)
    walk(optimizer, scheduler, 3)
    for twin in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
        twin.step()
        assert rates(twin.optimizer) == [0.1 * case.at(4)]
    assert rates(optimizer) == [0.1 * case.at(3)]


@each_schedule
def test_behind_another_schedule_it_begins_at_its_own_start(case: Case) -> None:
    optimizer = groups(0.1)
    warm = LinearLR(optimizer, 0.5, 1.0, total_iters=5)
    scheduler = SequentialLR(optimizer, [warm, case.make(optimizer)], milestones=[5])
    seen = walk(optimizer, scheduler, 20)
    assert [rate for (rate,) in seen[:5]] == pytest.approx([0.05, 0.06, 0.07, 0.08, 0.09])
    assert seen[5:] == [[0.1 * case.at(t)] for t in range(15)]


@each_schedule
def test_chained_alone_it_is_itself(case: Case) -> None:
    optimizer = groups(0.1)
    scheduler = ChainedScheduler([case.make(optimizer)])
    optimizer.step()
    scheduler.step()
    optimizer.add_param_group({"params": [parameter()], "lr": 0.7})
    optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == rates(optimizer) == [0.1 * case.at(2), 0.7 * case.at(2)]


def test_a_training_is_made_longer_by_resuming_it_with_more_steps() -> None:
    """The state holds how far it is, not the arguments, which are those given now."""
    optimizer = groups(0.1)
    scheduler = WarmupStableDecayLR(optimizer, 10, decay_fraction=0.5)
    walk(optimizer, scheduler, 5)
    longer = WarmupStableDecayLR(groups(0.1), 20, decay_fraction=0.5)
    longer.load_state_dict(scheduler.state_dict())
    assert [rate for (rate,) in walk(longer.optimizer, longer, 5)] == [0.1] * 5
    assert walk(optimizer, scheduler, 2)[1] < [0.1]


def test_a_wrong_argument_leaves_the_optimizer_as_it_was() -> None:
    optimizer = groups(0.1)
    step, group = optimizer.step, dict(optimizer.param_groups[0])
    with pytest.raises(ValueError, match=r"`timescale` must be above 0 steps, got -1\."):
        PowerLR(optimizer, timescale=-1)
    assert optimizer.step == step
    assert optimizer.param_groups == [group]
    with pytest.raises(TypeError, match="not an Optimizer"):
        PowerLR(nn.Linear(1, 1), timescale=1)  # type: ignore[arg-type]


def test_a_curve_of_your_own_is_followed_as_well() -> None:
    optimizer = groups(0.25)
    scheduler = ClosedFormLR(optimizer, lambda t: 0.5**t)
    assert walk(optimizer, scheduler, 3) == [[0.25], [0.125], [0.0625]]


def test_rounding_does_not_add_up_over_a_million_steps() -> None:
    optimizer = groups(0.1)
    scheduler = ExponentialDecayLR(optimizer, steps_per_decade=250_000)
    scheduler.last_epoch = 10**6 - 1
    optimizer.step()
    scheduler.step()
    assert rates(optimizer) == [pytest.approx(1e-5, rel=1e-15)]


def model(lightning: ModuleType, case: Case, seen: list[float], **config: Any) -> Any:
    """Return a model that is scheduled, and notes the learning rate of each step."""
    boring = lightning.demos.boring_classes

    class Model(boring.BoringModel):  # type: ignore[name-defined,misc]
        def configure_optimizers(self) -> Any:
            optimizer = SGD(self.parameters(), lr=0.1)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": case.make(optimizer), **config},
            }

        def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
            seen.extend(rates(optimizer))

    return Model()


def fit(lightning: ModuleType, model: Any, ckpt_path: str | None = None, **options: Any) -> Any:
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        **options,
    )
    trainer.fit(model, ckpt_path=ckpt_path)
    return trainer


@pytest.fixture
def boring(lightning: ModuleType) -> ModuleType:
    """Give both namespaces, with their demos imported."""
    importlib.import_module(f"{lightning.__name__}.demos.boring_classes")
    return lightning


@each_schedule
@pytest.mark.parametrize("accumulate", [1, 2])
def test_lightning_steps_it_at_every_optimizer_step(
    boring: ModuleType, case: Case, accumulate: int
) -> None:
    seen: list[float] = []
    fit(
        boring,
        model(boring, case, seen, interval="step"),
        max_epochs=2,
        limit_train_batches=6 * accumulate,
        accumulate_grad_batches=accumulate,
    )
    assert seen == [0.1 * case.at(t) for t in range(12)]


@each_schedule
def test_lightning_steps_it_at_every_epoch(boring: ModuleType, case: Case) -> None:
    seen: list[float] = []
    fit(boring, model(boring, case, seen), max_epochs=5, limit_train_batches=2)
    assert seen == [0.1 * case.at(epoch) for epoch in range(5) for _ in range(2)]


@each_schedule
def test_lightning_resumes_it(boring: ModuleType, case: Case) -> None:
    seen: list[float] = []
    trainer = fit(
        boring, model(boring, case, seen, interval="step"), max_epochs=2, limit_train_batches=5
    )
    trainer.save_checkpoint("half.ckpt")
    assert torch.load("half.ckpt", weights_only=True)["lr_schedulers"][0]["last_epoch"] == 10
    later = model(boring, case, seen, interval="step")
    fit(boring, later, "half.ckpt", max_epochs=4, limit_train_batches=5)
    assert seen == [0.1 * case.at(t) for t in range(20)]


def test_the_length_comes_from_the_trainer(boring: ModuleType) -> None:
    seen: list[float] = []
    classes = boring.demos.boring_classes

    class Model(classes.BoringModel):  # type: ignore[name-defined,misc]
        def configure_optimizers(self) -> Any:
            optimizer = SGD(self.parameters(), lr=0.1)
            total = self.trainer.estimated_stepping_batches
            scheduler = WarmupStableDecayLR(optimizer, total, decay_fraction=0.5, shape="linear")
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

        def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
            seen.extend(rates(optimizer))

    fit(boring, Model(), max_epochs=2, limit_train_batches=8, accumulate_grad_batches=2)
    assert seen == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.1, 0.075, 0.05, 0.025])
    with pytest.raises(ValueError, match="`total_steps` must be known beforehand, got inf: limit"):
        fit(boring, Model(), max_epochs=-1, limit_train_batches=8)


@pytest.mark.filterwarnings("ignore:.*configure_optimizers. will be overridden")
class TestCLI:
    """LightningCLI finds the schedules, and writes down what it was given."""

    @pytest.fixture(autouse=True)
    def _alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.argv", ["train"])
        monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

    def built(self, lightning: ModuleType, *arguments: str, cli: Any = None) -> Any:
        module = importlib.import_module(f"{lightning.__name__}.cli")
        demos = importlib.import_module(f"{lightning.__name__}.demos.boring_classes")
        return (cli or module.LightningCLI)(
            demos.BoringModel,
            run=False,
            args=["--trainer.accelerator=cpu", "--trainer.logger=false", *arguments],
            save_config_callback=None,
            seed_everything_default=0,
        )

    @pytest.mark.parametrize("name", ["lightning_diag.{}", "lightning_diag.lr.schedules.{}", "{}"])
    @each_schedule
    def test_it_is_chosen_by_name_and_its_config_reads_back(
        self,
        lightning: ModuleType,
        case: Case,
        name: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        kind = case.kind.__name__
        arguments = [
            "--optimizer=SGD",
            "--optimizer.lr=0.5",
            f"--lr_scheduler={name.format(kind)}",
            *(f"--lr_scheduler.{key}={value}" for key, value in case.arguments.items()),
        ]
        with pytest.raises(SystemExit):
            self.built(lightning, *arguments, "--print_config")
        printed = capsys.readouterr().out
        init = yaml.safe_load(printed)["lr_scheduler"]["init_args"]
        assert {key: init[key] for key in case.arguments} == case.arguments
        Path("config.yaml").write_text(printed, encoding="utf-8")
        cli = self.built(lightning, "--config=config.yaml")
        (optimizer,), (scheduler,) = cli.model.configure_optimizers()
        assert type(scheduler) is case.kind
        assert [rate for (rate,) in walk(optimizer, scheduler, 20)] == [
            0.5 * case.at(t) for t in range(20)
        ]

    def test_a_wrong_value_is_refused_with_the_sentence(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        import pytorch_lightning

        with pytest.raises((SystemExit, ValueError)) as stop:
            self.built(
                pytorch_lightning,
                "--optimizer=SGD",
                "--optimizer.lr=0.5",
                "--lr_scheduler=lightning_diag.PowerLR",
                "--lr_scheduler.timescale=-3",
            )
        told = capsys.readouterr().err + str(stop.value)
        assert "`timescale` must be above 0 steps, got -3" in told

    def test_the_page_shows_a_cli_that_steps_at_every_step(
        self, root: Path, lightning: ModuleType
    ) -> None:
        text = (root / "docs" / "learning-rate" / "schedules.md").read_text(encoding="utf-8")
        (code,) = re.findall(r"```python\n([^`]*class StepCLI.*?)```", text, flags=re.DOTALL)
        (config,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
        names: dict[str, Any] = {}
        exec(code.replace("lightning.pytorch", lightning.__name__), names)
        Path("config.yaml").write_text(config, encoding="utf-8")
        cli = self.built(lightning, "--config=config.yaml", cli=names["StepCLI"])
        configured = cli.model.configure_optimizers()
        assert configured["lr_scheduler"]["interval"] == "step"
        scheduler = configured["lr_scheduler"]["scheduler"]
        assert isinstance(scheduler, WarmupStableDecayLR)
        assert walk(configured["optimizer"], scheduler, 251)[250] == [0.5e-3]
