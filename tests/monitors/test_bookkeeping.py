"""Steps, looks, seconds and scalars are counted right, also where others interfere."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from runs import EVERY_STEP, Classifier, all_monitors, data, history, trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_diag import (
    ActivationMonitor,
    DataMonitor,
    Doctor,
    GradientMonitor,
    LossMonitor,
    Record,
)
from lightning_diag.probe import fit as fit_module
from lightning_diag.probe.clock import HostClock
from lightning_diag.probe.opening import joint_budget
from lightning_diag.probe.run import Run
from lightning_diag.probe.schedule import Budget, Times
from lightning_diag.probe.timing import StepTimer


class Many(Classifier):
    """As many optimizers as parameters, all of which step in every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        optimizers: Any = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()
        return loss

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD([parameter], lr=0.1) for parameter in self.parameters()]


def test_at_most_twenty_scalars_however_many_optimizers() -> None:
    """P36: what each optimizer did is in the history."""
    logger = CSVLogger(".")
    trainer(*all_monitors(), logger=logger, max_epochs=1).fit(Many(), data())
    header = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()[0].split(",")
    ours = [name for name in header if name.startswith("diag/")]
    assert 10 < len(ours) <= 20


class Saves(pl.Callback):
    """Saves a checkpoint at the end of one batch: before ours ends it, if it comes first."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 4:
            trainer.save_checkpoint("saved.ckpt")


def test_a_checkpoint_that_another_callback_saves_first_counts_its_step() -> None:
    """P11: weights have taken the step, so it must not be counted again."""
    doctor = Doctor(**EVERY_STEP)
    trainer(Saves(), doctor, max_epochs=1).fit(Classifier(), data())
    saved = torch.load("saved.ckpt", weights_only=True)
    assert saved["global_step"] == 4
    assert saved["callbacks"][doctor.state_key]["probe"]["steps"] == 4


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
def test_a_resumed_run_goes_on_counting_looks_seconds_and_optimizer_steps() -> None:
    """P11, P25: what watching has cost is a share of the whole run, not of its last part."""
    first = trainer(Doctor(**EVERY_STEP), max_epochs=2)
    first.fit(Classifier(), data())
    first.save_checkpoint("end.ckpt")
    doctor = Doctor(**EVERY_STEP)
    trainer(doctor, max_epochs=3).fit(Classifier(), data(), ckpt_path="end.ckpt")
    records = list(doctor.history.records())
    assert [record.step for record in records] == list(range(18))
    assert [record.optimizer_steps for record in records] == [(n,) for n in range(1, 19)]
    seconds = [record.seconds for record in records]
    assert seconds == sorted(seconds)
    assert doctor.state_dict()["probe"]["watched"] == 18


def test_the_schedule_of_a_fit_is_that_of_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """P19: looks that were taken count against those to come."""
    times = Times(plain=1.0, watched=1.5)
    monkeypatch.setattr(StepTimer, "times", lambda _: times)
    doctor = Doctor(every_n_steps=1, max_overhead=0.1, startup_seconds=0.0)
    trainer(doctor, max_epochs=20).fit(Classifier(), data())
    budget, expected = Budget(1, 0.1, 0.0), [0]
    while (following := budget.next_step(expected[-1], len(expected), times)) < 120:
        expected.append(following)
    assert 10 < len(expected) < 40
    assert doctor.history.steps == sorted({*expected, 119})


def test_watchers_that_share_a_fit_keep_to_the_strictest_of_their_budgets() -> None:
    """P19: nobody pays more than any of them allows, and who wants to look often may."""
    fit = trainer(max_epochs=1)
    module = Classifier()
    fit.fit(module, data())
    one = LossMonitor(every_n_steps=10, max_overhead=0.02, startup_seconds=1.0)
    other = GradientMonitor(every_n_steps=50, max_overhead=0.005, startup_seconds=3.0)
    for both in ([one, other], [other, one]):
        assert joint_budget(Run.of(fit, module), both) == Budget(10, 0.005, 3.0)


class Taciturn(Classifier):
    """Says what its loss was every other time."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        optimizer.step()
        return loss if batch_idx % 2 else None


def test_a_loss_that_was_not_returned_is_absent_among_those_that_were() -> None:
    """P10: 0 would be the best loss of all."""
    doctor = Doctor(**{**EVERY_STEP, "every_n_steps": 4})
    trainer(doctor, max_epochs=4).fit(Taciturn(), data())
    losses = doctor.history.series("loss/train")
    seen = {step: x for step, x in zip(*losses, strict=True) if not math.isnan(x)}
    assert list(seen) == list(range(1, 24, 2))
    assert min(seen.values()) > 0.1


class Ticks:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Slow(Dataset[Any]):
    """Takes a second for each batch of eight samples."""

    def __init__(self, ticks: Ticks) -> None:
        self.ticks = ticks

    def __len__(self) -> int:
        return 48

    def __getitem__(self, i: int) -> Any:
        self.ticks.seconds += 1 / 8
        return torch.randn(8), i % 3


class Busy(Classifier):
    """Takes a second for each training step, and very long to validate."""

    def __init__(self, ticks: Ticks) -> None:
        super().__init__()
        self.ticks = ticks

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.ticks.seconds += 1.0
        return super().training_step(batch, batch_idx)

    def validation_step(self, *_: Any) -> None:
        self.ticks.seconds += 1000.0


def test_time_spent_in_validation_counts_neither_as_waiting_nor_as_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """C7: half of the time between batches is spent waiting, however long validations take."""
    ticks = Ticks()
    monkeypatch.setattr(fit_module, "clock_for", lambda _: HostClock(ticks))
    loader = DataLoader(Slow(ticks), batch_size=8)
    trainer(DataMonitor(**EVERY_STEP), val_check_interval=2).fit(Busy(ticks), loader, data())
    shares = history().series("data/wait_fraction").values
    assert len(shares) == 4
    assert shares == pytest.approx([0.5] * len(shares))


class Judges(Doctor):
    """Notes what the history holds when a record is judged."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.newest: list[tuple[int, int]] = []

    def on_record(self, record: Record) -> None:
        self.newest.append((record.step, self.history.steps[-1] if self.history.steps else -1))
        super().on_record(record)


def test_a_record_is_in_the_history_before_it_is_judged() -> None:
    """P38: else every finding, and every stop, comes one look late."""
    doctor = Judges(**EVERY_STEP)
    trainer(doctor, max_epochs=1).fit(Classifier(), data())
    assert doctor.newest == [(step, step) for step in range(6)]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_variance_gains_are_taken_at_steps_four_apart_after_the_first_sixteen(
    accumulate: int,
) -> None:
    """They cost most of all numbers, and drift as slowly as the weights do."""
    monitor = ActivationMonitor(**EVERY_STEP)
    trainer(monitor, max_epochs=5 * accumulate, accumulate_grad_batches=accumulate).fit(
        Classifier(), data()
    )
    numbers = history()
    place, *_ = numbers.places("activation/variance_gain")
    assert numbers.series("activation/variance_gain", place).steps == [*range(16), 19, 23, 27]
    assert len(numbers.series("activation/mean", numbers.places("activation/mean")[0]).steps) == 30
