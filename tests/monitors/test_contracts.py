"""Contracts of watching that only show from the inside of a fit, or after one that went wrong."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import random
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins import MixedPrecision
from runs import EVERY_STEP, Classifier, Evaluated, all_monitors, data, history, seeded, trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset

from lightning_diag import DataMonitor, Doctor, GradientMonitor, LossMonitor, Record
from lightning_diag.history import History
from lightning_diag.probe import fit as fit_module
from lightning_diag.probe.clock import HostClock
from lightning_diag.probe.opening import joint_budget
from lightning_diag.probe.run import Run
from lightning_diag.probe.schedule import Budget, Times
from lightning_diag.probe.timing import StepTimer


class Waits(TorchDispatchMode):
    """Counts, for each step of a fit, the operations that wait for a device."""

    NAMES = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "_to_copy", "masked_select")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.step = 0
        self.found: Counter[int] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func._overloadpacket.__name__ in self.NAMES:
            self.found[self.step] += 1
        return func(*args, **(kwargs or {}))


class Steps(pl.Callback):
    """Tells a mode which step it is."""

    def __init__(self, mode: Waits) -> None:
        self.mode = mode

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self.mode.step = trainer.global_step


def test_steps_that_are_not_watched_wait_for_no_device() -> None:
    """P19: what waits on a CPU would stop the pipeline of a GPU."""

    def waits(*callbacks: Any) -> Counter[int]:
        mode = Waits()
        with mode:
            fit = trainer(Steps(mode), *callbacks, max_epochs=4, log_every_n_steps=50)
            fit.fit(Classifier(), data())
        return mode.found

    bare = waits()
    found = waits(Doctor(every_n_steps=8, max_overhead=1e9, startup_seconds=1e9))
    watched = set(history().steps)
    others = set(range(24)) - watched
    assert len(others) > 8
    assert {step: found[step] for step in others} == {step: bare[step] for step in others}


class Canary:
    """Something that can be seen to die."""


class Graphs(Classifier):
    """Notes, at every step, how many graphs of earlier losses are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.graphs: list[weakref.ref[Canary]] = []
        self.alive: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.alive.append(sum(graph() is not None for graph in self.graphs))
        loss = super().training_step(batch, batch_idx)
        canary, graph = Canary(), loss.grad_fn
        assert graph is not None
        metadata: Any = graph.metadata
        metadata["canary"] = canary
        self.graphs.append(weakref.ref(canary))
        return loss


@pytest.mark.parametrize("accumulate", [1, 2])
def test_no_graph_outlives_its_step(accumulate: int) -> None:
    """P17: losses are noted on every step, watched or not, and each could hold a whole graph."""

    def alive(*callbacks: Any) -> list[int]:
        module = Graphs()
        trainer(*callbacks, accumulate_grad_batches=accumulate).fit(module, data())
        return module.alive

    assert alive(Doctor(every_n_steps=100, startup_seconds=1e9)) == alive()


class Breaks(torch.optim.SGD):
    """Fails in the middle of its third step."""

    def __init__(self, parameters: Any, error: type[BaseException]) -> None:
        super().__init__(parameters, lr=0.1)
        self.error = error
        self.steps = 0

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        self.steps += 1
        if self.steps == 3:
            raise self.error("on purpose")
        return loss


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_no_hook_stays_on_an_optimizer_that_failed(error: type[BaseException]) -> None:
    """P17: the step that was being watched is never seen to end."""
    module = Classifier(optimizer=lambda parameters: Breaks(parameters, error))
    fit = trainer(Doctor(**EVERY_STEP))
    with pytest.raises((error, SystemExit)):
        fit.fit(module, data())
    (optimizer,) = fit.optimizers
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


class Copies(pl.Callback):
    """Copies a callback in every way, when a step has been watched."""

    def __init__(self, original: Doctor) -> None:
        self.original = original
        self.copies: list[Doctor] = []
        self.trainers: list[int] = []

    def on_train_batch_end(self, *_: Any) -> None:
        if not self.copies:
            self.trainers.append(trainers())
            self.copies = [copy.deepcopy(self.original), pickle.loads(pickle.dumps(self.original))]
            self.trainers.append(trainers())


def trainers() -> int:
    gc.collect()
    return sum(type(found) is pl.Trainer for found in gc.get_objects())


class Plain(Classifier):
    """Can be pickled, which Lightning does with the module of every callback that is copied."""

    def __init__(self) -> None:
        super().__init__()
        self.make_optimizer = torch.optim.SGD


def test_a_copy_made_during_a_fit_takes_no_trainer_along_and_watches_another_fit() -> None:
    """P17: tuners and launchers copy callbacks."""
    original = Doctor(**EVERY_STEP)
    copies = Copies(original)
    trainer(original, copies, max_epochs=1).fit(Plain(), data())
    before, after = copies.trainers
    assert before == after
    for i, copied in enumerate(copies.copies, 1):
        trainer(copied, max_epochs=1).fit(Plain(), data())
        assert History.open(f"lightning_diag-{i}").steps == list(range(6))
    assert original.history.steps == list(range(6))


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


class Ends(Evaluated):
    """Logs in validation, and ends in NaN."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        if self.trainer.global_step == 10:
            x = x.clone()
            x[0, 0] = float("nan")
        return super().training_step((x, y), batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", functional.cross_entropy(self.net(batch[0]), batch[1]))


class Gradients(pl.Callback):
    """Keeps what other callbacks find when a batch has ended."""

    def __init__(self) -> None:
        self.found: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.found += [parameter.grad.clone() for parameter in pl_module.parameters()]


def everything(*callbacks: Any) -> list[bytes]:
    """Train with validations, to NaN; return gradients and all that is left, as bytes."""

    def run() -> list[bytes]:
        module = Ends(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 3)))
        gradients = Gradients()
        fit = trainer(*callbacks, gradients, gradient_clip_val=1.0)
        fit.fit(module, data(shuffle=True), data())
        tensors = [*gradients.found, *(p.detach() for p in module.parameters())]
        tensors += [x for state in fit.optimizers[0].state.values() for x in state.values()]
        states = (random.getstate(), np.random.get_state())  # noqa: NPY002  # the global one
        shown = [x.numpy().tobytes() for x in (*tensors, torch.get_rng_state())]
        return [*shown, pickle.dumps(states)]

    result: list[bytes] = seeded(run)
    return result


def test_validations_and_nan_end_bit_for_bit_as_without() -> None:
    """First, do no harm: NaN is looked at and not mended, validations draw nothing at random."""
    left = everything(Doctor(**EVERY_STEP))
    assert np.isnan(np.frombuffer(left[4 * 11], dtype=np.float32)).any()
    assert left == everything()


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


def test_no_copy_of_weights_is_kept_of_a_step_that_was_skipped() -> None:
    """P12, P17: a fit may end on one."""
    doctor, module = Doctor(**EVERY_STEP), Classifier()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    trainer(doctor, plugins=[plugin], max_epochs=1).fit(module, data())
    assert doctor.history.series("update/skipped").values == [1.0] * 6
    gc.collect()
    shapes = [parameter.shape for parameter in module.parameters() if parameter.dim() > 1]
    own = {id(x) for parameter in module.parameters() for x in (parameter, parameter.grad)}
    tensors = [x for x in gc.get_objects() if type(x) in (Tensor, nn.Parameter)]
    assert not [x for x in tensors if x.shape in shapes and id(x) not in own]


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
