"""Groups hold the user's own rate, steps are taken with the effective one, nothing is left over."""

from __future__ import annotations

import copy
import importlib
import math
import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import (
    BatchSizeFinder,
    Callback,
    LearningRateFinder,
    LearningRateMonitor,
)
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.tuner.tuning import Tuner
from runs import EVERY_STEP, history
from torch import Tensor, nn
from torch.optim import lr_scheduler

from lightning_diag import LinearScalingLR, LossMonitor, WarmupLR
from lightning_diag._compat import MisconfigurationException
from lightning_diag.lr.apply import Adjustment, AppliedLR, effective
from lr.fits import BASE, Notebook, Ruler, Tape, closed_form, data, run, trainer


def sgd(lr: Any = BASE, **options: Any) -> torch.optim.Optimizer:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    weight.grad = torch.ones_like(weight)
    return torch.optim.SGD([weight], lr=lr, **options)


def moved(optimizer: torch.optim.Optimizer) -> float:
    """Take a step; return how far it went."""
    weight = optimizer.param_groups[0]["params"][0]
    before = weight.item()
    optimizer.step()
    return float(before - weight.item())


def halving(**options: Any) -> Adjustment:
    return Adjustment(lambda t, group: 0.5 ** (t + 1), **options)


def attached(optimizer: Any) -> int:
    return sum(
        len(hooks)
        for hooks in (
            optimizer._optimizer_step_pre_hooks,
            optimizer._optimizer_step_post_hooks,
            optimizer._optimizer_state_dict_post_hooks,
        )
    )


def test_factors_of_several_callbacks_multiply_and_each_counts_for_itself() -> None:
    optimizer = sgd()
    first, second = halving(), halving(steps=1)
    applied = AppliedLR.join(optimizer, first)
    assert AppliedLR.join(optimizer, second) is applied
    assert [moved(optimizer) for _ in range(2)] == [BASE / 8, BASE / 32]
    assert (first.steps, second.steps) == (2, 3)
    applied.leave(first)
    assert moved(optimizer) == BASE / 16
    applied.leave(second)
    assert moved(optimizer) == BASE
    assert AppliedLR.of(optimizer) is None
    assert attached(optimizer) == 0


def test_tensor_rates_are_changed_in_place() -> None:
    """What captured and compiled steps read is the same tensor before and after."""
    rate = torch.tensor(BASE)
    optimizer = sgd(rate, foreach=True)
    AppliedLR.join(optimizer, halving())
    assert moved(optimizer) == BASE / 2
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == BASE
    with effective([optimizer]):
        assert rate.item() == BASE / 4
        saved = optimizer.state_dict()["param_groups"][0]["lr"]
        assert saved.item() == BASE
        rate.fill_(2.0)
    assert rate.item() == 2.0


def test_a_rate_that_is_set_during_a_step_is_the_users_new_one() -> None:
    optimizer = sgd()
    AppliedLR.join(optimizer, halving())

    def closure() -> float:
        optimizer.param_groups[0]["lr"] = 3.0
        return 0.0

    optimizer.step(closure)
    assert optimizer.param_groups[0]["lr"] == 3.0
    assert moved(optimizer) == 3.0 / 4


def test_a_checkpoint_that_is_written_in_a_step_holds_the_users_values() -> None:
    optimizer = sgd(momentum=0.9)
    for _ in range(2):
        adjustment = halving()
        adjustment.momentum = lambda t, group, own: own / 2
        AppliedLR.join(optimizer, adjustment)
    states: list[Any] = []

    def closure() -> float:
        group = optimizer.param_groups[0]
        assert (group["lr"], group["momentum"]) == (BASE / 4, 0.225)
        states.append(copy.deepcopy(optimizer.state_dict()["param_groups"][0]))
        return 0.0

    optimizer.step(closure)
    assert (states[0]["lr"], states[0]["momentum"]) == (BASE, 0.9)
    assert optimizer.param_groups[0]["lr"] == BASE


def test_a_step_that_fails_is_not_counted_and_leaves_nothing_for_the_next() -> None:
    optimizer = sgd()
    adjustment = halving()
    AppliedLR.join(optimizer, adjustment)

    def closure() -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        optimizer.step(closure)
    assert moved(optimizer) == BASE / 2
    assert adjustment.steps == 1
    assert optimizer.param_groups[0]["lr"] == BASE


def test_a_step_that_calls_the_one_of_its_parent_counts_once() -> None:
    class Verbose(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    sgd()
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    weight.grad = torch.ones_like(weight)
    optimizer = Verbose([weight], lr=BASE)
    adjustment = halving()
    AppliedLR.join(optimizer, adjustment)
    assert [moved(optimizer) for _ in range(3)] == [BASE / 2, BASE / 4, BASE / 8]
    assert adjustment.steps == 3


def test_an_optimizer_without_hooks_is_refused_in_words() -> None:
    class Own:
        param_groups: tuple[Any, ...] = ()

        def step(self) -> None: ...

    with pytest.raises(TypeError, match="Own cannot be adjusted"):
        AppliedLR.join(Own(), halving())  # type: ignore[arg-type]


class Gan(Ruler):
    """Steps one optimizer on every batch and the other on every second, schedulers first."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.other = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.used: list[list[float]] = [[], []]

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        optimizers: Any = self.optimizers()
        schedulers: Any = self.lr_schedulers()
        for i, weight in enumerate((self.weight, self.other)):
            if i and batch_idx % 2:
                continue
            if self.used[i]:
                schedulers[i].step()
            optimizers[i].zero_grad()
            self.manual_backward(weight.sum())
            before = weight.item()
            optimizers[i].step()
            self.used[i].append(before - weight.item())

    def configure_optimizers(self) -> Any:
        pair = [torch.optim.SGD([w], lr=BASE) for w in (self.weight, self.other)]
        return pair, [lr_scheduler.StepLR(each, 3, 0.5) for each in pair]


def gan(*callbacks: Any) -> tuple[Gan, Notebook]:
    notebook, module = Notebook(), Gan()
    trainer([*callbacks, LearningRateMonitor("step")], logger=notebook, max_epochs=3).fit(
        module, data(4)
    )
    return module, notebook


def test_each_optimizer_of_a_gan_warms_up_by_its_own_steps() -> None:
    """P14: with manual optimisation, also where a scheduler is stepped before its optimizer."""
    bare, _ = gan()
    warm, notebook = gan(WarmupLR(4, start_factor=0.2))
    for mine, theirs in zip(warm.used, bare.used, strict=True):
        expected = [lr * closed_form(t, 4, 0.2) for t, lr in enumerate(theirs)]
        assert mine == pytest.approx(expected, rel=1e-9)
    assert [len(used) for used in warm.used] == [12, 6]
    # logged when the batch begins, which is before the schedule's own step of that batch
    logged = notebook.notes["lr-SGD"]
    assert [logged[0][0], logged[1][0]] == pytest.approx([BASE * 0.2, BASE * 0.4])


def test_only_the_chosen_optimizer_is_warmed_up() -> None:
    bare, _ = gan()
    by_place, _ = gan(WarmupLR(4, start_factor=0.2, parameters="optimizer1"))
    by_name, _ = gan(WarmupLR(4, start_factor=0.2, parameters=["othe?"]))
    assert by_place.used[0] == bare.used[0]
    assert by_place.used[1] == by_name.used[1]
    assert by_place.used[1][0] == pytest.approx(bare.used[1][0] * 0.2)


def test_two_callbacks_of_a_kind_warm_up_two_optimizers() -> None:
    bare, _ = gan()
    warm, _ = gan(
        WarmupLR(4, start_factor=0.2, parameters="optimizer0"),
        WarmupLR(2, start_factor=0.5, parameters="optimizer1"),
    )
    assert warm.used[0][:2] == pytest.approx([bare.used[0][0] * 0.2, bare.used[0][1] * 0.4])
    assert warm.used[1][:2] == pytest.approx([bare.used[1][0] * 0.5, bare.used[1][1] * 0.75])


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("nothing*", "which fits no parameter group"), ("weight", "of the same parameter group")],
)
def test_a_pattern_that_cannot_be_followed_is_refused(pattern: str, message: str) -> None:
    class Two(Ruler):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    with pytest.raises(MisconfigurationException, match=message):
        run("none", [WarmupLR(4, parameters=pattern)], module=Two())


def scaled() -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", 1024.0))


class Shaky(Ruler):
    """Has infinite gradients on two batches."""

    def __init__(self, fused: bool) -> None:
        super().__init__("step", fused=fused)
        self.weight = nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * math.inf if self.global_step in (2, 5) else loss


@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_the_grad_scaler_skips_are_not_counted(fused: bool) -> None:
    """P14: the schedule goes on with every batch, as it does in Lightning, the warm-up does not."""

    bare = run("step", [], module=Shaky(fused), plugins=[scaled()])
    warm = run("step", [WarmupLR(4, start_factor=0.2)], module=Shaky(fused), plugins=[scaled()])
    assert len(warm.used) == len(bare.used) == 10
    expected = [lr * closed_form(t, 4, 0.2) for t, lr in enumerate(bare.used)]
    assert warm.used == pytest.approx(expected, rel=1e-5)
    assert warm.resting == bare.resting


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_steps_without_a_loss_leave_the_schedule_alone() -> None:
    class Silent(Ruler):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx == 2 else loss

    bare = run("step", [], module=Silent("step"), plugins=[scaled()])
    warm = run("step", [WarmupLR(4)], module=Silent("step"), plugins=[scaled()])
    assert warm.resting == bare.resting


@pytest.mark.parametrize("fused", [False, True])
def test_fused_and_plain_steps_are_scaled_alike(fused: bool) -> None:
    warm = run("lambda", [WarmupLR(4, start_factor=0.2)], module=Ruler("lambda", fused=fused))
    expected = [BASE * 0.95**t * closed_form(t, 4, 0.2) for t in range(12)]
    assert warm.used == pytest.approx(expected, rel=1e-9)


def test_the_callbacks_work_in_both_namespaces(lightning: ModuleType) -> None:
    callbacks: Any = importlib.import_module(f"{lightning.__name__}.callbacks")
    module_class: Any = lightning.LightningModule

    class Plain(module_class):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.weight.sum()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=BASE)

    monitor = callbacks.LearningRateMonitor("step")
    logger = importlib.import_module(f"{lightning.__name__}.loggers").CSVLogger(".")
    lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[monitor, WarmupLR(2, start_factor=0.5), LinearScalingLR(1)],
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    ).fit(Plain(), data(4))
    assert monitor.lrs["lr-SGD"] == pytest.approx([0.5, 0.75, 1.0, 1.0])


def test_the_loss_monitor_shows_what_steps_are_taken_with() -> None:
    for name, plugins in (("plain", []), ("scaled", [scaled()])):
        tape = Tape()
        callbacks = [LossMonitor(**EVERY_STEP), WarmupLR(4, start_factor=0.2), tape]
        coach = trainer(callbacks, max_epochs=3, plugins=plugins, default_root_dir=name)
        coach.fit(Ruler("step"), data(4))
        seen = history(name).series("lr/value", "SGD/group0").values
        assert seen == pytest.approx(tape.moved, rel=1e-6)


def test_the_loss_monitor_agrees_with_manual_optimisation_too() -> None:
    module = Gan()
    callbacks = [LossMonitor(**EVERY_STEP), WarmupLR(4, start_factor=0.2)]
    trainer(callbacks, max_epochs=3).fit(module, data(4))
    seen = history().series("lr/value", "SGD0/group0").values
    assert seen == pytest.approx(module.used[0], rel=1e-9)


@pytest.mark.parametrize("make", [lambda: WarmupLR(8), lambda: LinearScalingLR(1)])
def test_the_tuner_trains_with_the_users_own_rates(make: Callable[[], Any]) -> None:
    """P15: `lr_find` and `scale_batch_size` are as they are without the callback, and fit after."""
    found = []
    for callbacks in ([], [make()]):
        torch.manual_seed(0)
        module = Ruler("none")
        coach = trainer(callbacks, max_epochs=1)
        loss = Tuner(coach).lr_find(
            module, data(4), num_training=8, update_attr=False, min_lr=1e-3, max_lr=1.0
        )
        assert loss is not None
        found.append((loss.results, module.weight.item()))
    assert found[0] == found[1]


class FindAgain(LearningRateFinder):
    """Searches in the middle of training, as Lightning's documentation shows."""

    def on_fit_start(self, *args: Any, **kwargs: Any) -> None: ...

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            self.lr_find(trainer, pl_module)


class Walker(Ruler):
    """Keeps where its weight has been."""

    def __init__(self) -> None:
        super().__init__()
        self.path: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.path.append(self.weight.item())
        return super().training_step(batch, batch_idx)


def test_a_search_in_the_middle_of_a_warmup_is_not_part_of_it() -> None:
    """The search steps the same optimizer, with the callbacks left out."""
    searched, used = [], []
    for callbacks in ([], [WarmupLR(6, start_factor=0.5)]):
        finder = FindAgain(
            num_training_steps=8,
            update_attr=False,
            min_lr=1e-3,
            max_lr=0.1,
            early_stop_threshold=None,
        )
        module, tape = Walker(), Tape()
        trainer([finder, *callbacks, tape], max_epochs=3).fit(module, data(4))
        searched.append([a - b for a, b in pairwise(module.path[4:8])])
        used.append(tape.moved)
    assert searched[1] == pytest.approx(searched[0])
    assert searched[0][0] == pytest.approx(1e-3)
    kept = [rate for rate in used[1] if rate > 0]
    expected = [BASE * closed_form(t, 6, 0.5) for t in range(len(kept))]
    assert kept == pytest.approx(expected)


class Stop(Callback):
    """Raises in the middle of training."""

    def __init__(self, error: type[BaseException], hook: str) -> None:
        self.error = error
        setattr(self, hook, self._stop)

    def _stop(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == 2:
            raise self.error


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_before_backward"])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_nothing_is_left_after_a_fit_that_fails(error: type[BaseException], hook: str) -> None:
    module = Ruler("step")
    monitor = LearningRateMonitor("step")
    callbacks = [WarmupLR(8, start_momentum=0.1), LinearScalingLR(1, warmup=4), monitor]
    module.options = {"momentum": 0.5}
    states: list[Any] = []

    class Saver(Callback):
        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            states.append(trainer.optimizers[0].state_dict()["param_groups"][0])

    coach = trainer([Saver(), *callbacks, Stop(error, hook)], logger=Notebook(), max_epochs=3)
    optimizers: list[Any] = []
    module.on_train_start = lambda: optimizers.extend(coach.optimizers)  # type: ignore[method-assign]
    with pytest.raises((error, SystemExit)):
        coach.fit(module, data(4))
    (optimizer,) = optimizers
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"]) == (BASE, 0.5)
    assert (states[0]["lr"], states[0]["momentum"]) == (BASE, 0.5)
    assert attached(optimizer) == 0
    assert AppliedLR.of(optimizer) is None
    assert "on_train_batch_start" not in vars(monitor)


def test_nothing_is_left_after_a_fit_and_a_second_one_begins_anew() -> None:
    """P15: applied once, over fit, fit again and test."""
    callbacks = [WarmupLR(4, start_factor=0.2), LinearScalingLR(1)]
    first, second = run("step", callbacks), run("step", callbacks)
    assert first.used == second.used
    for result in (first, second):
        (optimizer,) = result.coach.optimizers
        assert attached(optimizer) == 0
        assert optimizer.param_groups[0]["lr"] == BASE / 16


def test_a_checkpoint_in_the_middle_of_accumulation_holds_the_users_rate() -> None:
    states: list[Any] = []

    class Saver(Callback):
        def on_before_backward(self, trainer: Any, *args: Any) -> None:
            checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            states.append(checkpoint["optimizer_states"][0]["param_groups"][0]["lr"])

    run("none", [Saver(), WarmupLR(8)], accumulation=4)
    assert set(states) == {BASE}


def test_batch_size_finder_is_followed_and_leaves_no_trace(tmp_path: Path) -> None:
    """P15: the rate is that of the batch size that was found."""

    class Sized(Ruler):
        batch_size = 2

        def train_dataloader(self) -> Any:
            return data(8, self.batch_size)

    module = Sized()
    scaling = LinearScalingLR(2)
    finder = BatchSizeFinder("power", steps_per_trial=1, max_trials=2)
    coach = trainer([finder, scaling], max_epochs=1, default_root_dir=tmp_path)
    coach.fit(module)
    assert module.batch_size == 4
    assert scaling.batch is not None
    assert scaling.batch.size == 4
    assert module.logged_in_training[-1] == BASE * 2


def test_callbacks_are_pickled_without_their_optimizers() -> None:
    pickled: list[bytes] = []

    class Pickler(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            pickled.append(pickle.dumps([WarmupLR(4), *callbacks]))

    callbacks = [WarmupLR(4), LinearScalingLR(1)]
    run("none", [*callbacks, Pickler()])
    copies = pickle.loads(pickled[5])
    assert [each.steps for each in copies[1:]] == [[6], [6]]
