"""The learning rate follows the effective batch size, once (L3, P15)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

from lightning_diag import DiagWarning, LinearScalingLR, WarmupLR
from lightning_diag._compat import MisconfigurationException
from lightning_diag.history import History
from lightning_diag.lr.batch import own_batch_size
from lightning_diag.measure.noise_estimate import NoiseScale
from lightning_diag.record import Record
from lr.fits import BASE, Ruler, closed_form, data, run, trainer
from lr.test_warmup import RESUMING


def fit(callback: Any, loader: Any = None, module: Any = None, **options: Any) -> list[float]:
    """Return the rates that the steps of three epochs are taken with."""
    model = module or Ruler()
    trainer([callback], **{"max_epochs": 3, **options}).fit(
        model, data(4) if loader is None else loader
    )
    return list(model.logged_in_training)


class Made(Ruler):
    """Has another optimizer.

    Args:
        make: Of the parameters.
    """

    def __init__(self, make: Callable[..., torch.optim.Optimizer]) -> None:
        super().__init__()
        self.make = make

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters(), lr=BASE)


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_sgd_is_scaled_linearly_with_the_effective_batch(accumulation: int) -> None:
    used = fit(LinearScalingLR(4), data(8), accumulate_grad_batches=accumulation)
    assert set(used) == {BASE * 2 * accumulation / 4}


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad])
def test_adaptive_optimizers_are_scaled_with_the_root(optimizer: Any) -> None:
    assert set(fit(LinearScalingLR(32), module=Made(optimizer))) == {BASE / 4}


def test_the_formula_and_the_factor_are_printed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        fit(LinearScalingLR(1, warmup=7), accumulate_grad_batches=2)
        fit(LinearScalingLR(128, rule="sqrt", warmup=7))
    said = [r.getMessage() for r in caplog.records if "LinearScalingLR" in r.getMessage()]
    start, optimizer = "LinearScalingLR: effective batch size ", "; SGD (optimizer0): lr × "
    first = "4 = 2 per device × 1 device × 2 accumulated"
    second = "2 = 2 per device × 1 device × 1 accumulated"
    assert said == [
        f"{start}{first}{optimizer}4 = 4 / 1 (linear), reached in 7 optimizer steps",
        f"{start}{second}{optimizer}0.125 = sqrt(2 / 128) (sqrt)",
    ]


@pytest.mark.parametrize("options", [{"warmup": 4}, {"warmup_epochs": 1}])
def test_the_rate_grows_evenly_from_the_users_own(options: Any) -> None:
    """Goyal et al. 2017: gradual warm-up, from the small batch's rate to k times that."""
    used = fit(LinearScalingLR(1, **options))
    factors = [1 + min(1, t / 4) for t in range(12)]
    assert used == pytest.approx([BASE * factor for factor in factors])


def test_a_smaller_batch_has_its_smaller_rate_at_once() -> None:
    assert set(fit(LinearScalingLR(4, warmup=4))) == {BASE / 2}


def test_it_multiplies_with_a_warmup_and_a_schedule() -> None:
    bare = run("step", [])
    both = run("step", [LinearScalingLR(1), WarmupLR(4, start_factor=0.2)])
    expected = [2 * lr * closed_form(t, 4, 0.2) for t, lr in enumerate(bare.used)]
    assert both.used == pytest.approx(expected, rel=1e-9)
    assert both.logged == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("first", [True, False])
def test_an_accumulation_that_changes_is_followed(first: bool) -> None:
    """P15: whichever callback stands first."""
    scheduler = GradientAccumulationScheduler({0: 2, 1: 1, 2: 4})
    scaling = LinearScalingLR(4)
    module = Ruler()
    callbacks = [scaling, scheduler] if first else [scheduler, scaling]
    trainer(callbacks, max_epochs=3).fit(module, data(4))
    expected = [BASE] * 4 + [BASE / 2] * 4 + [BASE * 2] * 4
    assert module.logged_in_training == expected


def test_after_each_growth_the_rate_grows_gradually() -> None:
    scaling = LinearScalingLR(2, warmup=2)
    module = Ruler()
    trainer([GradientAccumulationScheduler({1: 2}), scaling], max_epochs=3).fit(module, data(4))
    used = module.logged_in_training[4::2]
    assert used == pytest.approx([BASE, BASE * 1.5, BASE * 2, BASE * 2])


def test_a_loader_that_is_replaced_is_followed() -> None:
    class Growing(Ruler):
        def train_dataloader(self) -> Any:
            return data(4, 2 + self.current_epoch)

    module = Growing()
    coach = trainer([LinearScalingLR(2)], max_epochs=3, reload_dataloaders_every_n_epochs=1)
    coach.fit(module)
    assert module.logged_in_training == [BASE] * 4 + [BASE * 1.5] * 4 + [BASE * 2] * 4


@RESUMING
@pytest.mark.parametrize("kind", ["none", "step", "one_cycle"])
def test_a_resumed_run_is_scaled_once(tmp_path: Path, kind: str) -> None:
    """P15: the rate after a resume is the one before, in the middle of the way up, too."""
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_top_k=-1)
    whole = run(kind, [LinearScalingLR(1, warmup=5), saving], enable_checkpointing=True)
    for at in (3, 9):
        path = tmp_path / f"step={at}.ckpt"
        again = run(kind, [LinearScalingLR(1, warmup=5)], resume=path)
        assert again.used == whole.used[at:]
        assert again.weight == whole.weight


@RESUMING
def test_a_run_resumed_on_larger_batches_grows_from_where_it_was(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4, save_top_k=-1)
    run("none", [LinearScalingLR(2, warmup=2), saving], enable_checkpointing=True)
    path = tmp_path / "step=4.ckpt"
    again = run("none", [LinearScalingLR(2, warmup=2, batch_size=6)], resume=path)
    assert again.used == pytest.approx([BASE, BASE * 2, *[BASE * 3] * 6])


def test_testing_changes_nothing() -> None:
    class Tested(Ruler):
        def test_step(self, batch: Any, batch_idx: int) -> None: ...

    module = Tested()
    coach = trainer([LinearScalingLR(1)], max_epochs=1)
    coach.fit(module, data(4))
    coach.test(module, data(4), verbose=False)
    assert coach.optimizers == [] or coach.optimizers[0].param_groups[0]["lr"] == BASE


class Stream(IterableDataset[torch.Tensor]):
    """Yields samples, or batches that it made itself."""

    def __init__(self, size: int | None = None) -> None:
        self.size = size

    def __iter__(self) -> Iterator[torch.Tensor]:
        for _ in range(8):
            yield torch.zeros(1) if self.size is None else torch.zeros(self.size, 1)


UNKNOWN: dict[str, Callable[[], Any]] = {
    "batches of its own": lambda: DataLoader(Stream(2), batch_size=None),
    "a batch sampler without a size": lambda: DataLoader(
        data(4).dataset, batch_sampler=[[0, 1], [2, 3]]
    ),
    "several loaders": lambda: [data(4), data(4, 3)],
    "a plain list": lambda: [torch.zeros(2, 1)] * 4,
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_batch_size_that_is_not_known_is_asked_for(name: str) -> None:
    """P15: ask, do not guess."""
    with pytest.raises(MisconfigurationException, match=r"LinearScalingLR\(batch_size=32\)"):
        fit(LinearScalingLR(2), UNKNOWN[name]())
    assert set(fit(LinearScalingLR(2, batch_size=4), UNKNOWN[name]())) == {BASE * 2}


def test_sizes_that_loaders_tell_are_taken() -> None:
    sampler = BatchSampler(SequentialSampler(range(8)), batch_size=3, drop_last=False)
    assert own_batch_size(DataLoader(data(4).dataset, batch_sampler=sampler)) == 3
    assert own_batch_size(DataLoader(Stream(), batch_size=5)) == 5


def test_what_accumulates_by_itself_is_told() -> None:
    class Manual(Ruler):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.used: list[float] = []

        def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            self.manual_backward(self.weight.sum() / 2)
            optimizer: Any = self.optimizers()
            if batch_idx % 2:
                before = self.weight.item()
                optimizer.step()
                optimizer.zero_grad()
                self.used.append(before - self.weight.item())

    module = Manual()
    trainer([LinearScalingLR(2, accumulation=2)], max_epochs=1).fit(module, data(4))
    assert module.used == pytest.approx([BASE * 2] * 2)


def test_an_optimizer_without_a_rule_is_asked_for() -> None:
    with pytest.raises(MisconfigurationException, match="does not know how Rprop scales"):
        fit(LinearScalingLR(2), module=Made(torch.optim.Rprop))
    assert set(fit(LinearScalingLR(1, rule="sqrt"), module=Made(torch.optim.Rprop))) == {
        BASE * math.sqrt(2)
    }


def test_linear_scaling_of_adam_is_warned_of() -> None:
    """P15."""
    with pytest.warns(DiagWarning, match="scales Adam linearly"):
        used = fit(LinearScalingLR(1, rule="linear"), module=Made(torch.optim.Adam))
    assert set(used) == {BASE * 2}


def test_a_batch_beyond_the_critical_size_is_warned_of_once_with_both_numbers() -> None:
    message = (
        "batch size 8 is beyond the critical batch size 4 .given.*: from 2 samples to 8, .* grow 2 "
        "times, not 4 times"
    )
    with pytest.warns(DiagWarning, match=message) as caught:
        fit(LinearScalingLR(2, critical_batch_size=4.0), accumulate_grad_batches=4)
    assert len([each for each in caught if each.category is DiagWarning]) == 1


@pytest.mark.parametrize(("base", "critical"), [(2, 8.0), (8, 4.0)])
def test_a_batch_that_is_not_beyond_it_or_not_scaled_up_is_not(base: int, critical: float) -> None:
    callback = LinearScalingLR(base, critical_batch_size=critical)
    assert set(fit(callback, accumulate_grad_batches=4)) == {BASE * 8 / base}


class Measures(LinearScalingLR):
    """Has a history, as `Doctor` has."""

    def __init__(self, scale: float) -> None:
        super().__init__(1, batch_size=64)
        self.history = History()
        self.history.append(
            Record(step=0, values={"gradient/noise_scale": {"": scale}}, optimizer_steps=(0,))
        )


def test_the_measured_noise_scale_is_the_critical_size() -> None:
    with pytest.warns(DiagWarning, match=r"critical batch size 20 \(measured\)"):
        fit(Measures(20.0))
    fit(Measures(200.0))


class MeasuresWell(Measures):
    """Has what `GradientNoiseScale` has, too."""

    def __init__(self, scale: float, better: float | None) -> None:
        super().__init__(scale)
        self.noise_scales = {} if better is None else {"": NoiseScale(better, better, better, 9)}


def test_a_noise_scale_of_whole_gradients_comes_before_one_of_neighbouring_steps() -> None:
    with pytest.warns(DiagWarning, match=r"critical batch size 30 \(measured\)"):
        fit(MeasuresWell(200.0, 30.0))
    with pytest.warns(DiagWarning, match=r"critical batch size 20 \(measured\)"):
        fit(MeasuresWell(20.0, None))
    fit(MeasuresWell(20.0, 200.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base_batch_size": 0}, "`base_batch_size` must be a whole number of at least 1, got 0"),
        ({"rule": "cubic"}, "`rule` must be one of linear, sqrt, auto, got 'cubic'"),
        ({"warmup": -1}, "`warmup` must be a whole number of at least 0, got -1"),
        ({"warmup_epochs": 0.0}, "`warmup_epochs` must be above 0, got 0.0"),
        ({"warmup": 1, "warmup_epochs": 1.0}, "not both"),
        ({"batch_size": 0}, "`batch_size` must be a whole number of at least 1, got 0"),
        ({"accumulation": 0}, "`accumulation` must be a whole number of at least 1, got 0"),
        ({"critical_batch_size": 0.0}, "`critical_batch_size` must be above 0, got 0.0"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearScalingLR(**arguments)


def test_two_optimizers_are_scaled_by_their_own_rules() -> None:
    class Two(Ruler):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.other = nn.Parameter(torch.zeros(1))
            self.rates: list[tuple[float, float]] = []

        def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            pair: Any = self.optimizers()
            seen = []
            for each, weight in zip(pair, (self.weight, self.other), strict=True):
                each.zero_grad()
                self.manual_backward(weight.sum())
                each.step(lambda each=each: seen.append(each.param_groups[0]["lr"]))
            self.rates.append((seen[0], seen[1]))

        def configure_optimizers(self) -> Any:
            return [
                torch.optim.SGD([self.weight], lr=BASE),
                torch.optim.Adam([self.other], lr=BASE),
            ]

    module = Two()
    trainer([LinearScalingLR(32)], max_epochs=1).fit(module, data(4))
    assert set(module.rates) == {(BASE / 16, BASE / 4)}
