"""Learning rates drawn before training are those of the training, and nothing is touched (L4)."""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn, optim
from torch.optim import lr_scheduler as torchs

from lightning_diag import LinearScalingLR, PowerLR, WarmupLR, plot_schedule
from lightning_diag.figures.schedule import Line, schedule_figure


def optimizer_of(*lrs: float, kind: Any = optim.SGD, **options: Any) -> optim.Optimizer:
    """Return an optimizer with a group for each learning rate."""
    made: optim.Optimizer = kind(
        [{"params": [nn.Parameter(torch.ones(3))], "lr": lr} for lr in lrs], lr=1.0, **options
    )
    return made


def drawn(figure: Figure) -> list[list[float]]:
    """Return the lines of a figure, without the point that ends the last step."""
    axes = figure.axes[0]
    lines = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    return [np.asarray(line.get_ydata(), float)[:-1].tolist() for line in lines]


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def note(figure: Figure) -> str:
    """Return what stands below."""
    titles = [legend.get_title().get_text() for legend in figure.legends]
    return titles[0] if titles else str(figure.get_supxlabel())


SCHEDULERS: dict[str, Callable[[optim.Optimizer], Any]] = {
    "OneCycleLR": lambda o: torchs.OneCycleLR(o, [0.3, 0.1], total_steps=40),
    "CosineAnnealingLR": lambda o: torchs.CosineAnnealingLR(o, 15),
    "CosineAnnealingWarmRestarts": lambda o: torchs.CosineAnnealingWarmRestarts(o, 7, 2),
    "ExponentialLR": lambda o: torchs.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: torchs.PolynomialLR(o, 30, 2.0),
    "CyclicLR": lambda o: torchs.CyclicLR(o, 0.01, 0.1, 5, mode="triangular2"),
    "CyclicLR, exp_range": lambda o: torchs.CyclicLR(o, 0.01, 0.1, 5, mode="exp_range", gamma=0.9),
    "LambdaLR": lambda o: torchs.LambdaLR(o, [lambda t: 0.9**t, lambda t: 1 / (1 + t)]),
    "MultiplicativeLR": lambda o: torchs.MultiplicativeLR(o, lambda t: 0.95),
    "SequentialLR": lambda o: torchs.SequentialLR(
        o, [torchs.LinearLR(o, 0.1, total_iters=8), torchs.CosineAnnealingLR(o, 20)], [8]
    ),
    "ChainedScheduler": lambda o: torchs.ChainedScheduler(
        [torchs.ConstantLR(o, 0.1, 6), torchs.ExponentialLR(o, 0.9)]
    ),
    "PowerLR": lambda o: PowerLR(o, 5),
}
each_scheduler = pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)


@each_scheduler
@pytest.mark.filterwarnings("ignore:The epoch parameter in")
def test_the_lines_are_the_learning_rates_of_the_steps(make: Callable[..., Any]) -> None:
    optimizer = optimizer_of(0.1, 0.02, momentum=0.9)
    scheduler = make(optimizer)
    lines = drawn(plot_schedule(optimizer, scheduler, steps=40))
    expected: list[list[float]] = [[], []]
    for _ in range(40):
        for group, seen in zip(optimizer.param_groups, expected, strict=True):
            seen.append(group["lr"])
        optimizer.step()
        scheduler.step()
    assert lines == (expected if expected[0] != expected[1] else expected[:1])


def state_of(thing: Any) -> Any:
    """Return all that a scheduler or an optimizer holds, down to its numbers."""
    if isinstance(thing, Tensor):
        return ("tensor", id(thing), thing._version, thing.tolist())
    if isinstance(thing, dict):
        return {key: state_of(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [state_of(each) for each in thing]
    if isinstance(thing, optim.Optimizer):
        return (id(thing), list(vars(thing)), state_of(thing.param_groups), state_of(thing.state))
    if hasattr(thing, "last_epoch"):
        return (id(thing), state_of(vars(thing)))
    return thing


def random_states() -> Any:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002  # schedules of users draw from it
    return random.getstate(), kind, np.asarray(keys).tolist(), rest, torch.get_rng_state().tolist()


@each_scheduler
@pytest.mark.parametrize("tensor", [False, True])
def test_nothing_that_is_given_is_touched(make: Callable[..., Any], tensor: bool) -> None:
    lr: Any = torch.tensor(0.1) if tensor else 0.1
    optimizer = optimizer_of(lr, 0.02, kind=optim.Adam)
    scheduler = make(optimizer)
    for _ in range(3):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        scheduler.step()
    before = state_of(optimizer), state_of(scheduler), random_states()
    plot_schedule(optimizer, scheduler, steps=50)
    assert (state_of(optimizer), state_of(scheduler), random_states()) == before


def test_a_touched_scheduler_would_be_noticed() -> None:
    optimizer = optimizer_of(0.1)
    scheduler = torchs.ExponentialLR(optimizer, 0.9)
    before = state_of(optimizer), state_of(scheduler)
    optimizer.step()
    scheduler.step()
    after = state_of(optimizer), state_of(scheduler)
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_random_numbers_that_a_schedule_draws_are_given_back() -> None:
    optimizer = optimizer_of(0.1)

    def noisy(t: int) -> float:
        drawn = random.random() + np.random.rand()  # noqa: NPY002  # as users do
        return drawn + float(torch.rand(())) if t else 1.0

    scheduler = torchs.LambdaLR(optimizer, noisy)
    before = random_states()
    (line,) = drawn(plot_schedule(optimizer, scheduler, steps=5))
    assert len(set(line)) == 5
    assert random_states() == before


class Counter:
    """A schedule that remembers, and holds a network that cannot be copied, and a weight."""

    def __init__(self) -> None:
        self.calls = 0
        self.net = nn.Sequential(nn.Linear(1000, 1000))
        self.net.loader = (line for line in "ab")  # type: ignore[assignment]
        self.weight = self.net[0].weight

    def __call__(self, t: int) -> float:
        self.calls += 1
        return float(self.net.training) / self.calls


def test_a_schedule_with_a_memory_is_copied_but_not_its_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(self: Any, *_: Any) -> Any:
        raise AssertionError("weights are copied")

    monkeypatch.setattr(nn.Parameter, "__deepcopy__", refuse)
    monkeypatch.setattr(nn.Parameter, "__reduce_ex__", refuse)
    counter = Counter()
    optimizer = optim.SGD(counter.net.parameters(), lr=1.0)
    scheduler = torchs.LambdaLR(optimizer, counter)
    assert drawn(plot_schedule(optimizer, scheduler, steps=4)) == [[1, 1 / 2, 1 / 3, 1 / 4]]
    assert counter.calls == 1


def test_a_method_of_the_model_may_be_the_schedule(lightning: ModuleType) -> None:
    class Model(lightning.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(2, 2)

        def factor(self, t: int) -> float:
            return 1 / (1 + t)

        def configure_optimizers(self) -> Any:
            optimizer = optim.SGD(self.parameters(), lr=1.0)
            return [optimizer], [torchs.LambdaLR(optimizer, self.factor)]

    figure = plot_schedule(Model().configure_optimizers(), steps=6, steps_per_epoch=2)
    assert drawn(figure) == [[1, 1, 1 / 2, 1 / 2, 1 / 3, 1 / 3]]


class Recipe:
    """Settings of a training, with what cannot be copied among them."""

    def __init__(self) -> None:
        self.lines = (line for line in "ab")

    def factor(self, t: int) -> float:
        return 1 / (1 + t)


def test_a_method_of_what_cannot_be_copied_may_be_the_schedule() -> None:
    optimizer = optimizer_of(1.0)
    scheduler = torchs.LambdaLR(optimizer, Recipe().factor)
    assert drawn(plot_schedule(optimizer, scheduler, steps=3)) == [[1, 1 / 2, 1 / 3]]


def test_a_plateau_stays_and_a_note_says_what_it_waits_for() -> None:
    optimizer = optimizer_of(0.1)
    scheduler = torchs.ReduceLROnPlateau(optimizer)
    config = {"optimizer": optimizer, "lr_scheduler": scheduler, "monitor": "val_loss"}
    figure = plot_schedule(config, steps=4)
    assert drawn(figure) == [[0.1] * 4]
    assert note(figure) == (
        "ReduceLROnPlateau lowers the learning rate when `val_loss` stops improving: not drawn."
    )
    assert "its metric" in note(plot_schedule(optimizer, scheduler, steps=4))
    assert note(plot_schedule(optimizer, steps=4)) == ""


def test_a_schedule_that_is_too_short_ends_where_training_would_fail() -> None:
    optimizer = optimizer_of(0.1)
    scheduler = torchs.OneCycleLR(optimizer, 0.1, total_steps=10)
    figure = plot_schedule(optimizer, scheduler, steps=30)
    assert len(drawn(figure)[0]) == 11
    assert figure.axes[0].get_xlim() == (0, 30)
    assert note(figure).startswith("OneCycleLR ends the training after 11 steps: Tried to step 11")
    optimizer = optimizer_of(0.1, 0.2)
    scheduler = torchs.OneCycleLR(optimizer, [0.1, 0.2], total_steps=10)
    assert note(plot_schedule(optimizer, scheduler, steps=30)) == note(figure)


def test_groups_that_are_alike_share_a_line() -> None:
    optimizer = optimizer_of(0.1, 0.02, 0.1, 0.1, 0.1)
    optimizer.param_groups[1]["name"] = "head"
    figure = plot_schedule(optimizer, torchs.ExponentialLR(optimizer, 0.5), steps=3)
    assert drawn(figure) == [[0.1, 0.05, 0.025], [0.02, 0.01, 0.005]]
    assert labels(figure) == ["group 0, group 2, group 3 and 1 more", "head"]
    assert labels(plot_schedule(optimizer_of(0.1, 0.1), steps=2)) == []


def test_many_groups_are_drawn_from_dark_to_light() -> None:
    figure = plot_schedule(optimizer_of(*(0.9**i for i in range(24))), steps=2)
    assert len(drawn(figure)) == 24
    assert labels(figure) == ["group 0", "group 12", "group 23"]
    assert len({str(line.get_color()) for line in figure.axes[0].lines}) == 24


def test_optimizers_are_named_as_lightning_names_them() -> None:
    first, second, other = optimizer_of(0.1), optimizer_of(0.2), optimizer_of(0.3, kind=optim.Adam)
    schedulers = [torchs.ExponentialLR(second, 0.5), torchs.ExponentialLR(other, 0.1)]
    figure = plot_schedule([first, second, other], schedulers, steps=2)
    assert drawn(figure) == [[0.1, 0.1], [0.2, 0.1], [0.3, pytest.approx(0.03)]]
    assert labels(figure) == ["SGD", "SGD-1", "Adam"]


def test_a_warm_up_multiplies_what_the_schedule_says() -> None:
    optimizer = optimizer_of(0.8)
    scheduler = torchs.StepLR(optimizer, 3, gamma=0.5)
    (line,) = drawn(plot_schedule(optimizer, scheduler, steps=6, warmup=lambda t: min(1, t / 4)))
    assert line == pytest.approx([0, 0.2, 0.4, 0.3, 0.4, 0.4])


@pytest.mark.parametrize(
    ("warmup", "steps"),
    [(WarmupLR(4), 4), (WarmupLR(epochs=1.5), 6), (WarmupLR(fraction=0.25), 2)],
)
def test_the_callback_warms_up_as_long_as_it_will(warmup: WarmupLR, steps: int) -> None:
    figure = plot_schedule(optimizer_of(1.0), steps=8, steps_per_epoch=4, warmup=warmup)
    expected = [0.01 + 0.99 * min(1, t / steps) for t in range(8)]
    assert drawn(figure) == [pytest.approx(expected)]


def test_the_callback_warms_up_the_groups_that_it_names() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = optim.Adam([{"params": layer.parameters()} for layer in net], lr=1.0)
    figure = plot_schedule(
        optimizer, steps=3, warmup=WarmupLR(2, parameters="1.*", start_factor=0), model=net
    )
    assert drawn(figure) == [[1, 1, 1], [0, 0.5, 1]]
    auto = drawn(plot_schedule(optimizer, steps=3001, warmup=WarmupLR("auto")))
    assert auto[0][1000] == pytest.approx(1 / 2000 + (1 - 1 / 2000) / 2)
    assert auto[0][2000:] == [1.0] * 1001


def test_the_callback_holds_for_the_batch_norm_of_the_model() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, momentum=0.5))
    warmup = WarmupLR(2, hold="batch-norm", start_factor=0.5)
    figure = plot_schedule(optim.SGD(net.parameters(), lr=1.0), steps=10, warmup=warmup, model=net)
    # A half to the power of seven is the first below one percent.
    assert drawn(figure) == [[0.5] * 8 + [0.75, 1.0]]


CONFIGS: list[dict[str, Any]] = [
    {},
    {"interval": "epoch", "frequency": 2},
    {"interval": "step"},
    {"interval": "step", "frequency": 3},
    {"interval": "step", "frequency": 4},
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_picture_is_what_lightning_does(
    lightning: ModuleType, config: dict[str, Any], accumulate: int
) -> None:
    demos = importlib.import_module(f"{lightning.__name__}.demos.boring_classes")
    seen: list[float] = []

    class Model(demos.BoringModel):  # type: ignore[name-defined,misc]
        def configure_optimizers(self) -> Any:
            optimizer = optim.SGD(self.parameters(), lr=0.1)
            scheduler = torchs.ExponentialLR(optimizer, 0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **config}}

    class Watch(lightning.Callback):  # type: ignore[name-defined,misc]
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            (optimizer,) = trainer.optimizers
            optimizer.register_step_pre_hook(
                lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"])
            )

    warmup = WarmupLR(6, start_factor=0.1)
    figure = plot_schedule(
        Model().configure_optimizers(),
        steps=15,
        steps_per_epoch=5,
        accumulate_grad_batches=accumulate,
        warmup=warmup,
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        limit_train_batches=5 * accumulate,
        accumulate_grad_batches=accumulate,
        max_epochs=3,
        callbacks=[warmup, Watch()],
    )
    trainer.fit(Model())
    assert drawn(figure) == [pytest.approx(seen)]
    assert len(seen) == 15


def test_what_lightning_wraps_is_drawn_as_well(lightning: ModuleType) -> None:
    wrapper = importlib.import_module(f"{lightning.__name__}.core.optimizer").LightningOptimizer
    optimizer = optimizer_of(0.1)
    scheduler = torchs.ExponentialLR(optimizer, 0.5)
    assert drawn(plot_schedule(wrapper(optimizer), scheduler, steps=2)) == [[0.1, 0.05]]


@pytest.mark.parametrize(
    ("returned", "lines", "is_scheduled"),
    [
        (lambda a, b, s: a, 1, False),
        (lambda a, b, s: [a, b], 2, False),
        (lambda a, b, s: ([a], [s]), 1, True),
        (lambda a, b, s: ([a, b], s), 2, True),
        (lambda a, b, s: {"optimizer": a}, 1, False),
        (lambda a, b, s: {"optimizer": a, "lr_scheduler": s}, 1, True),
        (
            lambda a, b, s: [{"optimizer": a, "lr_scheduler": {"scheduler": s}}, {"optimizer": b}],
            2,
            True,
        ),
    ],
)
def test_whatever_configure_optimizers_may_return_is_read(
    returned: Callable[..., Any], lines: int, is_scheduled: bool
) -> None:
    a, b = optimizer_of(0.1), optimizer_of(0.3)
    scheduler = torchs.ExponentialLR(a, 0.5)
    got = drawn(plot_schedule(returned(a, b, scheduler), steps=4, steps_per_epoch=2))
    assert got[0] == ([0.1, 0.1, 0.05, 0.05] if is_scheduled else [0.1] * 4)
    assert got[1:] == [[0.3] * 4] * (lines - 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "`steps` must be a whole number of at least 1, got 0"),
        ({"steps_per_epoch": 0}, "`steps_per_epoch` must be a whole number of at least 1"),
        ({"interval": "batch"}, "`interval` must be one of step, epoch, got 'batch'"),
        ({"interval": "epoch"}, "`steps_per_epoch` must be given where a scheduler steps once"),
        ({"warmup": WarmupLR(epochs=1)}, "`steps_per_epoch` must be given for a warm-up in epochs"),
        ({"warmup": WarmupLR(3, hold="batch-norm")}, "`model` must be given for a warm-up that"),
        ({"accumulate_grad_batches": 0}, "`accumulate_grad_batches` must be a whole number"),
    ],
)
def test_a_wrong_argument_is_one_sentence(options: dict[str, Any], message: str) -> None:
    optimizer = optimizer_of(0.1)
    with pytest.raises(ValueError, match=message):
        plot_schedule(optimizer, PowerLR(optimizer, 3), **{"steps": 5, **options})


def test_wrong_things_are_refused_by_name() -> None:
    optimizer = optimizer_of(0.1)
    foreign = PowerLR(optimizer_of(0.1), 3)
    with pytest.raises(ValueError, match="got a PowerLR of another optimizer"):
        plot_schedule(optimizer, foreign, steps=5)
    with pytest.raises(TypeError, match=r"`optimizer` must be an optimizer, or .* got Linear"):
        plot_schedule(nn.Linear(1, 1), steps=5)
    with pytest.raises(TypeError, match=r"`optimizer` must be an optimizer, or .* got NoneType"):
        plot_schedule(None, steps=5)
    with pytest.raises(TypeError, match="`scheduler` must be a learning rate scheduler, got int"):
        plot_schedule(optimizer, 3, steps=5)
    with pytest.raises(TypeError, match=r"`warmup` must be a WarmupLR or a function .* got int"):
        plot_schedule(optimizer, steps=5, warmup=3)
    with pytest.raises(TypeError, match=r"`warmup` must be .* got LinearScalingLR"):
        plot_schedule(optimizer, steps=5, warmup=LinearScalingLR())


def test_what_cannot_be_copied_is_said() -> None:
    optimizer = optimizer_of(0.1)
    scheduler = PowerLR(optimizer, 3)
    scheduler.lines = (line for line in "ab")  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="since its scheduler cannot be copied"):
        plot_schedule(optimizer, scheduler, steps=5)


def test_epochs_are_marked_and_numbered_above() -> None:
    figure = plot_schedule(optimizer_of(0.1), steps=40, steps_per_epoch=10)
    marks = [line for line in figure.axes[0].lines if line.get_drawstyle() == "default"]
    assert [np.asarray(mark.get_xdata(), float)[0] for mark in marks] == [10, 20, 30]
    figure.draw_without_rendering()
    (top,) = figure.axes[0].child_axes
    assert top.get_xlim() == (0, 4)
    assert top.get_xlabel() == "epoch"
    assert not plot_schedule(optimizer_of(0.1), steps=40).axes[0].child_axes


def test_a_logarithmic_axis_leaves_out_zeros() -> None:
    lines = [Line("", [0.0, 1e-4, 1e-2])]
    axes = schedule_figure(lines, log=True).axes[0]
    assert axes.get_yscale() == "log"
    assert axes.get_ylim() == pytest.approx((1e-4 / 1.3, 1.3e-2))
    assert schedule_figure(lines).axes[0].get_ylim() == pytest.approx((0, 1.05e-2))
    assert schedule_figure([Line("", [0.0])], log=True).axes[0].get_yscale() == "linear"


def test_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    optimizer = optimizer_of(0.1, 0.2)
    optimizer.param_groups[0]["name"] = "$x^$\n"
    figure = plot_schedule(optimizer, steps=3, title="$y_{$")
    figure.savefig(tmp_path / "schedule.png")
    assert labels(figure)[0] == "$x^$\N{REPLACEMENT CHARACTER}"


def test_nothing_to_draw_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="There is nothing to draw"):
        schedule_figure([Line("", [])])


def test_without_matplotlib_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"run `pip install 'lightning-diag\[plots\]'`\.$"):
        plot_schedule(optimizer_of(0.1), steps=3)
