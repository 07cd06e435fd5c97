"""Every entry has groups of its own before any scheduler is made, and all go on (P21, P22, P41)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lr.fits import Notebook
from pytorch_lightning.callbacks import LearningRateFinder, LearningRateMonitor
from torch import nn
from torch.nn import functional
from torch.optim import lr_scheduler as schedulers

from lightning_diag import LayerFreezing, WarmupLR
from lightning_diag._compat import MisconfigurationException
from lightning_diag.transfer.groups import configured
from transfer.freezes import Diary, Transfer, adamw, data, kept, moved, sgd, top, trainer

SCHEDULE: Any = {0: "head", 1: "high", 2: ["low", "stem"]}
NAMES = ["head", "high", "low", "stem"]
STEPS = 17
Make = Callable[[torch.optim.Optimizer], Any]
MADE: dict[str, Make] = {
    "step": lambda o: schedulers.StepLR(o, 3, 0.5),
    "multi-step": lambda o: schedulers.MultiStepLR(o, [4, 9], 0.5),
    "constant": lambda o: schedulers.ConstantLR(o, 0.5, 5),
    "linear": lambda o: schedulers.LinearLR(o, 0.3, 1.0, 7),
    "exponential": lambda o: schedulers.ExponentialLR(o, 0.9),
    "polynomial": lambda o: schedulers.PolynomialLR(o, 20),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, 20),
    "restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 5),
    "one-cycle": lambda o: schedulers.OneCycleLR(o, max_lr=0.05, total_steps=STEPS),
    "cyclic": lambda o: schedulers.CyclicLR(o, 0.01, 0.05, step_size_up=3),
    "lambda": lambda o: schedulers.LambdaLR(o, lambda t: 0.9**t),
    "multiplicative": lambda o: schedulers.MultiplicativeLR(o, lambda t: 0.9),
    "plateau": lambda o: schedulers.ReduceLROnPlateau(o, factor=0.5, patience=0),
    "sequential": lambda o: schedulers.SequentialLR(
        o, [schedulers.ConstantLR(o, 0.5, 1), schedulers.ExponentialLR(o, 0.9)], milestones=[5]
    ),
    "chained": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, 0.5, 5), schedulers.ExponentialLR(o, 0.9)], optimizer=o
    ),
}
LISTS: dict[str, Make] = {
    "lambda": lambda o: schedulers.LambdaLR(o, [lambda t: 0.9**t]),
    "multiplicative": lambda o: schedulers.MultiplicativeLR(o, [lambda t: 0.9]),
    "one-cycle": lambda o: schedulers.OneCycleLR(o, max_lr=[0.05], total_steps=STEPS),
    "cyclic": lambda o: schedulers.CyclicLR(o, [0.01], [0.05], step_size_up=3),
    "plateau": lambda o: schedulers.ReduceLROnPlateau(o, factor=0.5, patience=0, min_lr=[0.001]),
    "sequential": lambda o: schedulers.SequentialLR(
        o,
        [schedulers.LambdaLR(o, [lambda t: 0.5]), schedulers.LambdaLR(o, [lambda t: 0.9**t])],
        milestones=[5],
    ),
}


def freezing(**options: Any) -> LayerFreezing:
    return LayerFreezing(**{"schedule": SCHEDULE, "verbose": False, **options})


def notes(make: Make, *callbacks: Any) -> dict[str, list[float]]:
    """Return the learning rates of each step, as `LearningRateMonitor` has them, by group."""
    notebook = Notebook()
    interval = "epoch" if "ReduceLROnPlateau" in type(make(sgd([torch.ones(1)]))).__name__ else ""
    module = Transfer(sgd, make, interval or "step")
    coach = trainer(*callbacks, LearningRateMonitor("step"), logger=notebook, max_epochs=4)
    coach.fit(module, data(), data(1))
    found = {}
    for name in notebook.notes:
        if name.startswith("lr-"):
            found[name] = notebook.lr(name)
    return found


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.filterwarnings("ignore:The epoch parameter in")
def test_every_scheduler_goes_on_in_every_group(kind: str) -> None:
    """P21, P41: one continuous series for each group, which is that of training all at once."""
    (bare,) = notes(MADE[kind]).values()
    found = notes(MADE[kind], freezing())
    assert list(found) == [f"lr-SGD/{name}" for name in NAMES]
    # What is chained warns of nothing, and a plateau depends on the loss.
    if kind != "plateau":
        assert all(series == bare for series in found.values())
    assert all(len(series) == 16 for series in found.values())


@pytest.mark.parametrize("kind", LISTS)
def test_lists_with_an_entry_for_each_of_the_users_groups_are_expanded(kind: str) -> None:
    (bare,) = notes(LISTS[kind]).values()
    found = notes(LISTS[kind], freezing())
    assert len(found) == 4
    if kind != "plateau":
        assert all(series == bare for series in found.values())


def test_lists_go_with_the_users_groups_and_not_with_ours() -> None:
    class Halves(Transfer):
        def configure_optimizers(self) -> Any:
            halves = [self.backbone.parameters(), self.head.parameters()]
            optimizer = torch.optim.SGD([{"params": half} for half in halves], lr=0.1)
            rates = [0.01, 0.1]
            made = schedulers.OneCycleLR(optimizer, max_lr=rates, total_steps=STEPS)
            return [optimizer], [{"scheduler": made, "interval": "step"}]

    bare, split = Diary(), Diary()
    trainer(Names(), bare).fit(Halves(), data(), data(1))
    trainer(freezing(), split).fit(Halves(), data(), data(1))
    for before, after in zip(bare.rates, split.rates, strict=True):
        body, head = (rate for _, rate in before)
        assert dict(after) == {"head": head, "high": body, "low": body, "stem": body}


class Names(pl.Callback):
    """Gives groups the names that the diary asks for."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        for i, group in enumerate(trainer.optimizers[0].param_groups):
            group["name"] = str(i)


def test_groups_of_the_users_own_are_kept_apart() -> None:
    def decayed(parameters: Any) -> torch.optim.Optimizer:
        every = list(parameters)
        groups = [
            {"params": [p for p in every if p.ndim > 1], "name": "decay", "weight_decay": 0.1},
            {"params": [p for p in every if p.ndim == 1], "name": "plain", "lr": 0.2},
        ]
        return torch.optim.SGD(groups, lr=0.1)

    module, diary = Transfer(decayed), Diary()
    coach = trainer(freezing(), diary)
    coach.fit(module, data(), data(1))
    groups = coach.optimizers[0].param_groups
    assert [g["name"] for g in groups] == [
        f"{own}/{name}" for own in ("decay", "plain") for name in NAMES
    ]
    assert {(g["name"].partition("/")[0], g["weight_decay"], g["lr"]) for g in groups} == {
        ("decay", 0.1, 0.1),
        ("plain", 0, 0.2),
    }
    members = [id(p) for g in groups for p in g["params"]]
    assert sorted(members) == sorted(map(id, module.parameters()))


def test_unnamed_groups_get_names_of_their_own() -> None:
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(3)]
    places = {id(parameters[0]): 0, id(parameters[1]): 1, id(parameters[2]): 1}
    _, (optimizer,) = configured(
        lambda: torch.optim.SGD([{"params": p} for p in parameters], lr=0.1), places, ["a", "b"]
    )
    assert [g["name"] for g in optimizer.param_groups] == ["a", "b", "b/2"]


def test_parameters_of_equal_values_are_not_mixed_up() -> None:
    """P22, R4: biases of the same shape start at the same zeros."""
    module = Transfer()
    with torch.no_grad():
        module.backbone.low.linear.bias.zero_()
        module.backbone.high.linear.bias.zero_()
        module.backbone.stem.bias.zero_()
    coach = trainer(freezing(), max_epochs=3)
    coach.fit(module, data(), data(1))
    members = [id(p) for g in coach.optimizers[0].param_groups for p in g["params"]]
    assert sorted(members) == sorted(map(id, module.parameters()))


def test_code_that_asks_for_requires_grad_leaves_nothing_out() -> None:
    class Filters(Transfer):
        def configure_optimizers(self) -> Any:
            return sgd(filter(lambda p: p.requires_grad, self.parameters()))

    diary = Diary()
    trainer(freezing(), diary).fit(Filters(), data(), data(1))
    assert "backbone.low" in top(diary.moved[2])


def test_a_parameter_that_no_optimizer_has_is_named() -> None:
    """P2: it would be thawed, and never train."""

    class HeadOnly(Transfer):
        def configure_optimizers(self) -> Any:
            return sgd(self.head.parameters())

    with pytest.raises(MisconfigurationException, match=r"backbone\.high\.linear\.weight.* no opt"):
        trainer(freezing()).fit(HeadOnly(), data(), data(1))


def test_optimizers_that_are_made_elsewhere_are_split_too() -> None:
    class Before(Transfer):
        def __init__(self) -> None:
            super().__init__()
            self.made = [sgd(self.parameters())]
            self.other = schedulers.OneCycleLR(self.made[0], max_lr=0.05, total_steps=STEPS)

        def configure_optimizers(self) -> Any:
            return self.made, [{"scheduler": self.other, "interval": "step"}]

    diary = Diary()
    trainer(freezing(), diary, max_epochs=4).fit(Before(), data(), data(1))
    assert [name for name, _ in diary.rates[0]] == NAMES
    assert len({rate for _, rate in diary.rates[3]}) == 1


def test_an_optimizer_that_cannot_have_groups_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="LBFGS cannot have several"):
        trainer(freezing()).fit(Transfer(torch.optim.LBFGS), data(), data(1))


def test_what_fails_in_the_users_code_fails_as_it_would() -> None:
    class Fails(Transfer):
        def configure_optimizers(self) -> Any:
            raise ZeroDivisionError

    own = torch.optim.Optimizer.add_param_group
    with pytest.raises(ZeroDivisionError):
        trainer(freezing()).fit(Fails(), data(), data(1))
    assert torch.optim.Optimizer.add_param_group is own


def test_lower_layers_have_lower_rates_below_any_schedule() -> None:
    """T3: lr_decay multiplies what the schedule says."""
    (bare,) = notes(MADE["one-cycle"]).values()
    found = notes(MADE["one-cycle"], freezing(lr_decay=0.5))
    for depth, name in enumerate(NAMES):
        assert found[f"lr-SGD/{name}"] == pytest.approx([lr * 0.5**depth for lr in bare])


def test_a_group_warms_up_when_it_thaws() -> None:
    found = notes(MADE["cosine"], freezing(warmup=3))
    (bare,) = notes(MADE["cosine"]).values()
    factors = [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    high, low = found["lr-SGD/high"], found["lr-SGD/low"]
    assert found["lr-SGD/head"] == bare
    assert high[4:12] == pytest.approx([a * b for a, b in zip(bare[4:12], factors, strict=True)])
    assert low[8:] == pytest.approx([a * b for a, b in zip(bare[8:], factors, strict=True)])


def test_it_multiplies_with_a_warmup_of_all() -> None:
    both = notes(MADE["step"], WarmupLR(4, start_factor=0.2), freezing(lr_decay=0.5))
    (bare,) = notes(MADE["step"]).values()
    assert both["lr-SGD/low"][:2] == pytest.approx([bare[0] * 0.2 * 0.25, bare[1] * 0.4 * 0.25])


def test_steps_are_taken_with_these_rates() -> None:
    """A tensor for a rate, too, which groups must not share."""

    def plain(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=torch.tensor(0.5), foreach=True)

    class Slope(Transfer):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("loss", 0.0)
            return self.head.bias.sum() + self.backbone.high.linear.bias.sum()

    module = Slope(plain, MADE["exponential"])
    before = kept(module)
    trainer(LayerFreezing({0: ["head", "high"]}, lr_decay=0.1, verbose=False), max_epochs=1).fit(
        module, data(2), data(1)
    )
    after = kept(module)
    total = 0.5 + 0.45
    for name, factor in (("head.bias", 1.0), ("backbone.high.linear.bias", 0.1)):
        gone = (before[name] - after[name]).tolist()
        assert gone == pytest.approx([total * factor] * len(gone), rel=1e-5)


class Gan(Transfer):
    """Two networks, two optimizers, two schedulers, by hand, with toggling."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.critic = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        x, y = batch
        optimizers: Any = self.optimizers()
        lrs: Any = self.lr_schedulers()
        for i, optimizer in enumerate(optimizers):
            self.toggle_optimizer(optimizer)
            out = self.critic(x).square().mean() if i else functional.cross_entropy(self(x), y)
            optimizer.zero_grad()
            self.manual_backward(out)
            optimizer.step()
            self.untoggle_optimizer(optimizer)
            lrs[i].step()

    def configure_optimizers(self) -> Any:
        first = sgd([*self.backbone.parameters(), *self.head.parameters()])
        second = adamw(self.critic.parameters())
        return [first, second], [MADE["one-cycle"](first), MADE["step"](second)]


def test_a_gan_thaws_in_both_networks() -> None:
    diary = Diary()
    schedule = {0: ["head", "critic.2"], 1: "high", 2: "critic.0"}
    callback = LayerFreezing(schedule, warmup=2, lr_decay=0.5, verbose=False)
    trainer(callback, diary, max_epochs=3).fit(Gan(), data(), data(1))
    expected = [{"head.weight", "head.bias", "critic.2"}]
    expected += [expected[0] | {"backbone.high"}]
    expected += [expected[1] | {"critic.0"}]
    assert [top(names) for names in diary.moved] == expected


def test_two_callbacks_share_a_module_when_each_says_what_it_is_for() -> None:
    first = LayerFreezing({1: "critic.0"}, freeze="critic.0", verbose=False)
    second = LayerFreezing({2: "high"}, freeze="backbone", verbose=False)
    diary = Diary()
    trainer(first, second, diary, max_epochs=3).fit(Gan(), data(), data(1))
    assert [top(names) for names in diary.moved] == [
        {"head.weight", "head.bias", "critic.2"},
        {"head.weight", "head.bias", "critic.2", "critic.0"},
        {"head.weight", "head.bias", "critic.2", "critic.0", "backbone.high"},
    ]
    names = [name for name, _ in diary.rates[0]]
    assert len(names[:3]) == len(set(names[:3]))


def test_two_callbacks_that_decide_on_the_same_are_refused() -> None:
    with pytest.raises(MisconfigurationException, match="Two LayerFreezing callbacks decide on"):
        trainer(freezing(), LayerFreezing({0: "low"}, verbose=False)).fit(
            Transfer(), data(), data(1)
        )


def test_a_search_for_a_learning_rate_trains_what_is_trained_first(tmp_path: Path) -> None:
    class Look(Transfer):
        def __init__(self) -> None:
            super().__init__()
            self.lr = 0.1
            self.start = kept(self)

        def on_before_zero_grad(self, optimizer: Any) -> None:
            if self.trainer.current_epoch == 0:
                assert top(moved(self.start, kept(self)), 1) <= {"head"}

    finder = LearningRateFinder(num_training_steps=8)
    coach = trainer(finder, freezing(), default_root_dir=tmp_path)
    coach.fit(Look(), data(), data(1))
