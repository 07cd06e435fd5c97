"""Interrupted and resumed equals never interrupted (P11, P25)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from runs import Classifier, all_monitors, data, seeded, trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag import DiagWarning, Doctor, GradientMonitor
from lightning_diag.history import History

TIMES = ("step_time/", "overhead/", "data/wait")


class Halts(Classifier):
    """Stops the run in the middle of an epoch, as a cluster does."""

    def __init__(self, net: nn.Module, at: int | None) -> None:
        super().__init__(net, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9))
        self.at = at

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Raise before the chosen step."""
        if self.at is not None and self.trainer.global_step == self.at:
            message = "preempted"
            raise RuntimeError(message)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def batches() -> DataLoader[Any]:
    """Return six equal batches: a resumed epoch reads from its beginning again."""
    x, y = next(iter(data()))
    return DataLoader(TensorDataset(x.repeat(6, 1), y.repeat(6)), batch_size=8)


def same_numbers(one: History, other: History) -> None:
    """Compare all numbers but those of the clock."""
    assert one.steps == other.steps
    for metric in one.metrics():
        if metric.startswith(TIMES):
            continue
        assert one.places(metric) == other.places(metric), metric
        for place in one.places(metric):
            expected, found = one.series(metric, place), other.series(metric, place)
            assert found.steps == expected.steps, (metric, place)
            assert list(found.values) == pytest.approx(list(expected.values), rel=1e-5), metric


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same folder", "another folder"])
@pytest.mark.parametrize(("every", "halt"), [(4, 9), (6, 11)], ids=["mid-epoch", "epoch end"])
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_no_step_is_doubled_or_lost(every: int, halt: int, elsewhere: bool) -> None:
    """The history of a run that was cut off and resumed is that of one that was not."""
    seeded(
        lambda: trainer(*all_monitors(), max_epochs=3, default_root_dir="whole").fit(
            Halts(net(), None), batches()
        )
    )
    whole = History.open("whole/lightning_diag")

    def cut() -> None:
        keep = ModelCheckpoint("kept", every_n_train_steps=every, save_top_k=-1, filename="{step}")
        fit = trainer(
            *all_monitors(), keep, max_epochs=3, default_root_dir="cut", enable_checkpointing=True
        )
        with pytest.raises(RuntimeError, match="preempted"):
            fit.fit(Halts(net(), halt), batches())

    seeded(cut)
    assert History.open("cut/lightning_diag").steps == list(range(halt))
    folder = "resumed" if elsewhere else "cut"
    fit = trainer(*all_monitors(), max_epochs=3, default_root_dir=folder)
    last = max(Path("kept").glob("*.ckpt"), key=lambda path: int(path.stem.split("=")[-1]))
    fit.fit(Halts(net(), None), batches(), ckpt_path=str(last), weights_only=True)
    resumed = History.open(f"{folder}/lightning_diag")
    same_numbers(whole, resumed)
    assert [r.optimizer_steps for r in resumed.records()] == [(n + 1,) for n in range(18)]
    seconds = [record.seconds for record in resumed.records()]
    assert seconds == sorted(seconds)


def test_second_fit_of_a_trainer_goes_on() -> None:
    """More epochs of the same run are the same run."""
    monitors = all_monitors()
    fit = trainer(*monitors, max_epochs=1)
    module = Halts(net(), None)
    fit.fit(module, data())
    fit.fit_loop.max_epochs = 2
    fit.fit(module, data())
    assert History.open("lightning_diag").steps == list(range(12))


def test_callback_in_a_new_trainer_begins_anew() -> None:
    """Another run has its own history and counters."""
    monitors = all_monitors()
    for _ in range(2):
        trainer(*monitors, max_epochs=1).fit(Halts(net(), None), data())
    for folder in ("lightning_diag", "lightning_diag-1"):
        found = History.open(folder)
        assert found.steps == list(range(6))
        assert next(found.records()).optimizer_steps == (1,)
        assert found.last("dead_relu/window_samples")["net.1/relu#0"] == 48.0


def test_monitor_added_on_resume_starts_at_the_trainers_step(tmp_path: Path) -> None:
    """P25: a checkpoint from before the monitor was added is as good."""
    fit = trainer(max_epochs=1)
    fit.fit(Halts(net(), None), data())
    fit.save_checkpoint(tmp_path / "end.ckpt")
    fit = trainer(GradientMonitor(every_n_steps=1, max_overhead=1e9), max_epochs=2)
    fit.fit(Halts(net(), None), data(), ckpt_path=tmp_path / "end.ckpt", weights_only=True)
    assert History.open("lightning_diag").steps == list(range(6, 12))


def test_history_that_cannot_be_read_is_left_aside(tmp_path: Path) -> None:
    """A broken file of ours must not keep a run from going on."""
    fit = trainer(*all_monitors(), max_epochs=1)
    fit.fit(Halts(net(), None), data())
    fit.save_checkpoint(tmp_path / "end.ckpt")
    Path("lightning_diag/history.jsonl").write_text('{"schema": 999}\n')
    fit = trainer(*all_monitors(), max_epochs=2)
    with pytest.warns(DiagWarning, match="left aside"):
        fit.fit(Halts(net(), None), data(), ckpt_path=str(tmp_path / "end.ckpt"), weights_only=True)
    assert fit.global_step == 12
    assert History.open("lightning_diag-1").steps == list(range(6, 12))


def test_read_only_folder_costs_the_file_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The numbers are kept in memory, with one warning."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    doctor = Doctor(every_n_steps=1, max_overhead=1e9)
    with pytest.warns(DiagWarning, match="history|report"):
        trainer(doctor, max_epochs=1, default_root_dir="nowhere").fit(Halts(net(), None), data())
    assert doctor.history.steps == list(range(6))
