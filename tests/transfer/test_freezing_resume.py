"""A run that is interrupted and resumed is the run that was not, bit for bit (P2, R2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim import lr_scheduler

from lightning_diag import LayerFreezing
from transfer.freezes import Diary, Transfer, adamw, data, sgd, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
]
EPOCHS = 7
MAKE: dict[str, dict[str, Any]] = {
    "epochs": {"schedule": {0: "head", 2: "high", 4: ["low", "stem"]}},
    "steps": {"schedule": {0: "head", 7: "high", 14: "*"}, "unit": "step"},
    "every": {"every": 2, "lr_decay": 0.5, "warmup": 3},
    "plateau": {
        "schedule": ["head", "high", "low"],
        "on_plateau": "val_loss",
        "window": 2,
        "patience": 1,
        "min_delta": 10.0,
        "restore_best": True,
        "warmup": 5,
        "lr_decay": 0.3,
    },
    "all": {"freeze": "backbone", "unfreeze_all": 3, "schedule": ["high"], "every": 2},
}


def callback(kind: str) -> LayerFreezing:
    return LayerFreezing(**{"verbose": False, **MAKE[kind]})


BATCHES = list(data())


class Seeded(Transfer):
    """Has batches and dropout that depend on the step alone: loaders do not go on by themselves."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        torch.manual_seed(self.global_step)
        return super().training_step(BATCHES[self.global_step % len(BATCHES)], batch_idx)


def one_cycle(optimizer: torch.optim.Optimizer) -> Any:
    return lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=4 * EPOCHS + 1)


def run(
    kind: str, optimizer: Any, *callbacks: Any, path: Path | None = None
) -> tuple[Diary, dict[str, Any]]:
    diary, freezing = Diary(), callback(kind)
    coach = trainer(
        freezing, diary, *callbacks, max_epochs=EPOCHS, enable_checkpointing=bool(callbacks)
    )
    coach.fit(Seeded(optimizer, one_cycle), data(), data(1), ckpt_path=path, weights_only=True)
    return diary, freezing.state_dict()


def require_same(one: Any, other: Any) -> None:
    """Compare tensors in whatever they are in, bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype
        assert one.numpy().tobytes() == other.numpy().tobytes()
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            require_same(value, other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            require_same(mine, theirs)
    else:
        assert one == other


@pytest.mark.parametrize("optimizer", [sgd, adamw])
@pytest.mark.parametrize("kind", MAKE)
def test_resuming_after_each_epoch_equals_never_interrupted(
    kind: str, optimizer: Any, tmp_path: Path
) -> None:
    saving = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    whole, state = run(kind, optimizer, saving)
    assert len({tuple(names) for names in whole.trainable}) >= 3 - (kind == "all")
    for epoch in range(EPOCHS - 1):
        again, state_again = run(kind, optimizer, path=tmp_path / f"epoch={epoch}.ckpt")
        rest = slice(epoch + 1, None)
        require_same(again.trainable, whole.trainable[rest])
        require_same(again.rates, whole.rates[rest])
        require_same(again.states, whole.states[rest])
        require_same(again.weights, whole.weights[rest])
        require_same(state_again, state)


@pytest.mark.parametrize("kind", MAKE)
def test_resuming_from_a_checkpoint_of_validation_equals_never_interrupted(
    kind: str, tmp_path: Path
) -> None:
    saving = ModelCheckpoint(
        tmp_path, "{epoch}", monitor="val_loss", save_top_k=-1, save_on_train_epoch_end=False
    )
    whole, _ = run(kind, sgd, saving)
    for epoch in range(1, EPOCHS - 1):
        again, _ = run(kind, sgd, path=tmp_path / f"epoch={epoch}.ckpt")
        assert again.trainable[-1] == whole.trainable[-1]
        require_same(again.weights[-1], whole.weights[-1])
        require_same(again.states[-1], whole.states[-1])


@pytest.mark.parametrize("kind", ["steps", "every"])
def test_resuming_in_the_middle_of_an_epoch_equals_never_interrupted(
    kind: str, tmp_path: Path
) -> None:
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole, state = run(kind, sgd, saving)
    for step in (6, 7, 8, 9, 13, 14, 15):
        again, state_again = run(kind, sgd, path=tmp_path / f"step={step}.ckpt")
        assert again.trainable[-1] == whole.trainable[-1]
        require_same(again.weights[-1], whole.weights[-1])
        require_same(again.states[-1], whole.states[-1])
        require_same(state_again, state)


class Hand(pl.Callback):
    """Freezes and thaws by hand."""

    def __init__(self, callback: LayerFreezing) -> None:
        self.callback = callback

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 2:
            self.callback.freeze(trainer, "high")
        if trainer.current_epoch == 4:
            self.callback.thaw(trainer, "high")
            self.callback.thaw(trainer, "low")


def test_what_was_frozen_by_hand_is_so_after_a_resume(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)

    def by_hand(*callbacks: Any, path: Path | None = None) -> Diary:
        diary = Diary()
        freezing = LayerFreezing({0: ["head", "high"], 6: "low"}, warmup=3, verbose=False)
        trainer(
            freezing,
            Hand(freezing),
            diary,
            *callbacks,
            max_epochs=EPOCHS,
            enable_checkpointing=bool(callbacks),
        ).fit(Seeded(sgd, one_cycle), data(), data(1), ckpt_path=path, weights_only=True)
        return diary

    whole = by_hand(saving)
    assert [len(names) for names in whole.trainable] == [6, 6, 2, 2, 10, 10, 10]
    for epoch in range(EPOCHS - 1):
        again = by_hand(path=tmp_path / f"epoch={epoch}.ckpt")
        require_same(again.trainable, whole.trainable[epoch + 1 :])
        require_same(again.weights, whole.weights[epoch + 1 :])
        require_same(again.states, whole.states[epoch + 1 :])


def test_a_checkpoint_fits_where_only_the_times_are_others() -> None:
    def key(schedule: Any) -> str:
        return LayerFreezing(schedule).state_key

    def fresh() -> Any:
        return {0: "head", 2: lambda name: name.startswith("backbone")}

    assert key({0: "head", 2: "high"}) == key({0: "head", 3: "high"})
    assert key({0: "head", 2: "high"}) != key({0: "head", 2: "low"})
    assert key(fresh()) == key(fresh())
