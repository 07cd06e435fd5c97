"""What the monitors of weights and set-up note of real fits, against references."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from runs import EVERY_STEP, Classifier, Net, data, history, seeded, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag import Doctor, SetupMonitor, WeightMonitor
from lightning_diag.history import History
from lightning_diag.rules.eval_mode_with_trainable_parameters import (
    EvalModeWithTrainableParameters,
)
from lightning_diag.rules.frozen_but_changing import FrozenButChanging
from lightning_diag.rules.symmetric_init import SymmetricInit

close = pytest.approx
in_eval_mode = pytest.mark.filterwarnings("ignore:Found . module.s. in eval mode")


class Reference(pl.Callback):
    """Takes copies of weights before each step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        named = pl_module.named_parameters()
        self.weights.append({n: p.detach().double().clone() for n, p in named})


def watched(module: Classifier, *callbacks: Any, **options: Any) -> History:
    seeded(
        lambda: trainer(
            WeightMonitor(**EVERY_STEP), SetupMonitor(**EVERY_STEP), *callbacks, **options
        ).fit(module, data())
    )
    return history()


@pytest.mark.parametrize("factor", [1, 4])
def test_weights_are_those_before_the_step(factor: int) -> None:
    """C6: at the first look, and at every 64th."""
    reference = Reference()
    options = {"max_epochs": 34 if factor == 4 else 12, "accumulate_grad_batches": factor}
    found = watched(seeded(Classifier), reference, **options)
    for name in ("net.first.weight", "net.head.weight"):
        series = found.series("weight/std", name)
        assert series.steps == [0, 64]
        for step, value in zip(*series, strict=True):
            before = reference.weights[step][name]
            assert value == close(float(before.std(correction=0)), rel=1e-5)
    assert "net.first.bias" not in found.places("weight/std")


def test_copies_are_sought_at_the_first_looks_and_later_only_if_there_were_some() -> None:
    """C5."""
    found = watched(Classifier(), max_epochs=4)
    assert found.series("weight/duplicate_fraction", "net.first.weight").steps == [0, 1, 2, 3]
    assert set(found.last("weight/duplicate_fraction").values()) == {0.0}

    class Alike(Classifier):
        def __init__(self) -> None:
            super().__init__(nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)))
            for layer in (self.net[0], self.net[2]):
                nn.init.constant_(layer.weight, 0.1)
                nn.init.zeros_(layer.bias)

    watched(Alike(), max_epochs=4)
    found = History.open("lightning_diag-1")
    series = found.series("weight/duplicate_fraction", "net.0.weight")
    assert series.steps == [0, 1, 2, 3, 16]
    assert set(series.values) == {1.0}
    assert found.last("gradient/duplicate_fraction")["net.0.weight"] == 1.0
    (finding,) = SymmetricInit()(found)
    assert finding.places == ("net.0.weight",)


@pytest.mark.parametrize("zero", ["head", "branch", "both"])
def test_layers_that_begin_at_zero_on_purpose_are_healthy(zero: str) -> None:
    """C5: heads, last layers of residual branches, adapters."""

    class Branched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into = nn.Linear(8, 16)
            self.up = nn.Linear(16, 32)
            self.down = nn.Linear(32, 16)
            self.head = nn.Linear(16, 3)
            if zero != "head":
                nn.init.zeros_(self.down.weight)
            if zero != "branch":
                nn.init.zeros_(self.head.weight)

        def forward(self, x: Tensor) -> Tensor:
            h = self.into(x)
            out: Tensor = self.head(h + self.down(torch.relu(self.up(h))))
            return out

    doctor = Doctor(**EVERY_STEP, rules=[SymmetricInit()])
    seeded(lambda: trainer(doctor).fit(Classifier(Branched()), data()))
    assert doctor.findings == []
    zeros = doctor.history.series("weight/duplicate_fraction", "net.down.weight").values
    assert (zeros[0] == 1.0) is (zero != "head")


class Words(nn.Module):
    """Looks up four words a sample, of the first ten."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 8, sparse=sparse)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        ids = (x[:, :4].abs() * 5).long().clamp(max=9)
        out: Tensor = self.head(self.table(ids).mean(1))
        return out


@pytest.mark.parametrize("sparse", [False, True])
def test_rows_that_were_ever_looked_up_are_counted(sparse: bool) -> None:
    """H7: also those of steps between two looks; decay does not count."""
    make: Callable[..., Any] = (
        (lambda p: torch.optim.SGD(p, lr=0.5))
        if sparse
        else (lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1))
    )
    module = seeded(lambda: Classifier(Words(sparse), make))
    before = module.net.table.weight.detach().clone()
    found = watched(module, max_epochs=3)
    assert found.series("embedding/touched_fraction", "net.table.weight").steps == [16]
    moved = ((module.net.table.weight.detach() - before).abs() > 1e-3).any(dim=1)
    if sparse:
        assert moved.double().mean() == 0.25
    assert found.last("embedding/touched_fraction") == {"net.table.weight": 0.25}
    assert 0 < found.last("embedding/batch_fraction")["net.table.weight"] <= 0.25
    assert abs(found.last("embedding/mean_cosine")["net.table.weight"]) < 0.3
    assert "net.table.weight" not in found.places("weight/duplicate_fraction")


def words(*rows: int) -> DataLoader[Any]:
    """Return six batches in which `Words` looks up these rows alone."""
    x = torch.zeros(48, 8)
    x[:, :4] = (torch.tensor(rows).repeat(48)[: 48 * 4].view(48, 4) + 0.5) / 5
    return DataLoader(TensorDataset(x, torch.arange(48) % 3), batch_size=8)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_rows_looked_up_before_a_checkpoint_count_after_it() -> None:
    """H7, P25: a resumed run begins with rows that have turned already."""

    def make() -> Classifier:
        return Classifier(Words(sparse=False), lambda p: torch.optim.SGD(p, lr=0.5))

    def run() -> None:
        first = trainer(WeightMonitor(**EVERY_STEP), max_epochs=2)
        first.fit(make(), words(0, 1, 2, 3))
        first.save_checkpoint("end.ckpt")
        second = trainer(WeightMonitor(**EVERY_STEP), max_epochs=3)
        second.fit(make(), words(6, 7, 8, 9), ckpt_path="end.ckpt")

    seeded(run)
    touched = history().series("embedding/touched_fraction", "net.table.weight")
    assert touched.steps == [16]
    assert touched.values == [8 / 40]


class Stale(Classifier):
    """Freezes a layer that the optimizer holds, and keeps its gradients."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Freeze at the third step."""
        if self.global_step == 3:
            self.net.first.requires_grad_(requires_grad=False)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        """Keep gradients, as zeros."""
        optimizer.zero_grad(set_to_none=False)


def test_frozen_parameters_that_momentum_moves_are_seen() -> None:
    """P3."""
    module = Stale(Net(), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-2))
    found = watched(module)
    series = found.series("setup/frozen_changed", "net.first.weight")
    assert series.steps[0] == 3
    assert set(series.values) == {1.0}
    (finding,) = FrozenButChanging()(found)
    assert set(finding.places) == {"net.first.weight", "net.first.bias"}
    assert finding.steps[0] == 3


def test_frozen_parameters_without_gradients_stand_still() -> None:
    """P3: frozen before the fit, and held by the optimizer all the same."""
    module = Classifier()
    module.net.first.requires_grad_(requires_grad=False)
    found = watched(module)
    assert found.last("setup/frozen_changed") == {"": 0.0}
    assert FrozenButChanging()(found) == []


@in_eval_mode
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_statistics_of_a_frozen_backbone(mode: bool) -> None:
    """P3, P48: Lightning leaves eval mode as it is."""
    backbone = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1))
    backbone.requires_grad_(requires_grad=False).train(mode)
    found = watched(Classifier(nn.Sequential(backbone, nn.Linear(16, 3))))
    moved = [place for place in found.last("setup/frozen_changed") if place]
    assert moved == (["net.0.1"] if mode else [])
    assert len(FrozenButChanging()(found)) == mode
    assert EvalModeWithTrainableParameters()(found) == []


class Teacher(Classifier):
    """Follows a running average of itself, batch norm and all."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = copy.deepcopy(self.net).requires_grad_(requires_grad=False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Pull towards the teacher."""
        with torch.no_grad():
            target = self.teacher(batch[0])
        loss: Tensor = super().training_step(batch, batch_idx)
        apart: Tensor = self.net(batch[0]) - target
        return loss + apart.square().mean()

    def on_train_batch_end(self, *_: Any) -> None:
        """Move the teacher."""
        with torch.no_grad():
            for mine, own in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                mine.lerp_(own, 0.01)


def test_a_teacher_is_meant_to_move() -> None:
    """P3: averages change outside of optimizers."""
    assert FrozenButChanging()(watched(Teacher(), max_epochs=4)) == []


@in_eval_mode
def test_a_model_loaded_in_eval_mode_is_seen_until_it_is_put_right() -> None:
    """P48."""

    class Loaded(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if self.global_step == 8:
                self.net.train()

    module = Loaded()
    module.net.eval()
    found = watched(module)
    assert found.series("setup/eval_mode").values == [1.0] * 8 + [0.0] * 4
    assert found.series("setup/eval_mode", "net.norm").values == [1.0] * 8 + [0.0] * 4
    assert found.series("setup/eval_share").values == [1.0] * 8 + [0.0] * 4
    assert EvalModeWithTrainableParameters()(found) == []


def test_one_process_has_no_difference_between_ranks() -> None:
    assert "setup/rank_difference" not in watched(Classifier()).metrics()


def test_where_nothing_is_frozen_nothing_is_said_of_it() -> None:
    """What does not exist is absent, not 0; of modes there is always something to say."""
    found = watched(Classifier())
    assert "setup/frozen_changed" not in found.metrics()
    assert set(found.last("setup/eval_mode").values()) == {0.0}
