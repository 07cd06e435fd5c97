"""What is frozen stays as it is, parameters and buffers, bit for bit (P3, R3)."""

from __future__ import annotations

import contextlib
import copy
import gc
import importlib
import pickle
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_diag import LayerFreezing
from lightning_diag.transfer.frozen import FrozenParts
from transfer.freezes import (
    Backbone,
    Diary,
    Transfer,
    adamw,
    data,
    kept,
    moved,
    sgd,
    top,
    trainer,
)

HEAD = {"head.weight", "head.bias"}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": sgd,
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, dampening=0),
    "adamw": adamw,
    "adam-decay": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.5, amsgrad=True),
    "sgd-fused": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.1, fused=True),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5, fused=True),
    "sgd-foreach": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.1, foreach=True),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5, foreach=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, weight_decay=0.1),
}


def freezing(**options: Any) -> LayerFreezing:
    return LayerFreezing({0: "head"}, **{"verbose": False, **options})


class Stale(Transfer):
    """Comes with gradients, and has `.train()` called in each step."""

    def __init__(self, optimizer: Any = sgd) -> None:
        super().__init__(optimizer)
        for parameter in self.parameters():
            parameter.grad = torch.ones_like(parameter)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.train()
        self.backbone.low.drop.training = True
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_frozen_subtree_does_not_move(name: str, accumulation: int) -> None:
    """With momentum, decay, stale gradients, user calls of `.train()` and validation."""
    module, diary = Stale(OPTIMIZERS[name]), Diary()
    before = kept(module)
    trainer(freezing(), diary, accumulate_grad_batches=accumulation).fit(module, data(), data(1))
    assert moved(before, kept(module)) == HEAD
    assert diary.moved == [HEAD] * 3


@pytest.mark.parametrize("optimizer", [sgd, adamw])
def test_a_gradient_that_comes_from_somewhere_moves_nothing(optimizer: Any) -> None:
    """With manual optimisation nobody may have called `zero_grad`; any code may set a gradient."""

    class Careless(Transfer):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            self.manual_backward(functional.cross_entropy(self(batch[0]), batch[1]))
            for parameter in self.backbone.parameters():
                parameter.grad = torch.ones_like(parameter)
            plain: Any = self.optimizers(use_pl_optimizer=batch_idx % 2 == 0)
            plain.step()

    module = Careless(optimizer)
    before = kept(module)
    trainer(freezing()).fit(module, data(), data(1))
    assert moved(before, kept(module)) == HEAD


def test_it_would_move_without() -> None:
    module = Stale()
    before = kept(module)
    trainer().fit(module, data(), data(1))
    assert moved(before, kept(module)) == set(before)


def test_track_running_stats_and_the_users_flags_are_left_alone() -> None:
    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            norms = [m for m in pl_module.modules() if isinstance(m, nn.BatchNorm1d)]
            assert all(norm.track_running_stats for norm in norms)
            assert not any(norm.training for norm in norms)
            assert pl_module.training

    module = Transfer()
    module.backbone.stem.weight.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in module.parameters()]
    trainer(freezing(), Watch()).fit(module, data(), data(1))
    assert [parameter.requires_grad for parameter in module.parameters()] == flags
    assert all(each.training for each in module.modules())


def test_outputs_of_frozen_layers_are_those_of_evaluation() -> None:
    """Dropout is off, and statistics are the running ones, even after `.train()`."""

    class Compare(Stale):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            reference = copy.deepcopy(self.backbone).eval()(batch[0])
            self.train()
            assert torch.equal(self.backbone(batch[0]), reference)
            assert not self.backbone(batch[0]).requires_grad
            return super().training_step(batch, batch_idx)

    trainer(freezing()).fit(Compare(), data(), data(1))


def test_dropout_goes_on_where_that_is_asked_for() -> None:
    module = Transfer()
    seen: list[bool] = []
    module.backbone.low.drop.register_forward_hook(
        lambda m, *_: seen.append(m.training) if torch.is_grad_enabled() else None
    )
    before = kept(module)
    trainer(freezing(dropout=True)).fit(module, data(), data(1))
    assert set(seen) == {True}
    assert moved(before, kept(module)) == HEAD


class Switch(pl.Callback):
    """Freezes or thaws by name after some batches."""

    def __init__(self, callback: LayerFreezing, **plan: str) -> None:
        self.callback, self.plan, self.batches = callback, plan, 0
        self.seen: dict[int, dict[str, Tensor]] = {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.batches += 1
        self.seen[self.batches] = kept(pl_module)
        for what, at in self.plan.items():
            (action, name), at_batch = what.split("_"), int(at)
            if self.batches == at_batch:
                getattr(self.callback, action)(trainer, name)


@pytest.mark.parametrize("optimizer", [sgd, adamw])
def test_freezing_in_the_middle_of_an_accumulation_ends_all_steps(optimizer: Any) -> None:
    """What was accumulated before is not stepped with, and momentum does not move it either."""
    callback = LayerFreezing({0: ["head", "high"]}, verbose=False)
    # Of four batches of the third step, two are done.
    switch = Switch(callback, freeze_high="10")
    module = Transfer(optimizer)
    trainer(callback, switch, accumulate_grad_batches=4, max_epochs=4).fit(module, data(), data(1))
    changed = top(moved(switch.seen[10], kept(module)))
    assert changed == HEAD
    assert top(moved(switch.seen[2], switch.seen[10])) == HEAD | {"backbone.high"}


def test_what_is_frozen_again_thaws_with_what_the_optimizer_knew() -> None:
    callback = LayerFreezing({0: ["head", "high"]}, verbose=False)
    states: list[Any] = []

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            weight = pl_module.backbone.high.linear.weight
            states.append(trainer.optimizers[0].state[weight]["momentum_buffer"].clone())

    switch = Switch(callback, freeze_high="4", thaw_high="8")
    module = Transfer()
    trainer(callback, switch, Look()).fit(module, data(), data(1))
    assert torch.equal(states[3], states[7])
    assert not torch.equal(states[7], states[8])
    assert "backbone.high" in top(moved(switch.seen[8], switch.seen[9]))


def test_nothing_below_the_frontier_computes_a_gradient() -> None:
    class Graph(Transfer):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            features = self.backbone(batch[0])
            assert features.grad_fn is None
            return functional.cross_entropy(self.head(features), batch[1])

        def on_after_backward(self) -> None:
            assert all(p.grad is None for p in self.backbone.parameters())

    trainer(freezing()).fit(Graph(), data(), data(1))


@pytest.mark.parametrize("ending", ["normal", "exception", "interrupt"])
def test_nothing_stays_attached(ending: str) -> None:
    class Ends(Transfer):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if ending == "exception" and self.global_step == 5:
                raise ZeroDivisionError
            return super().training_step(batch, batch_idx)

    class Interrupts(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if ending == "interrupt" and trainer.global_step == 5:
                raise KeyboardInterrupt

    module = Ends()
    names = set(vars(module))
    callback = LayerFreezing({0: "head", 1: "high"}, lr_decay=0.5, warmup=2, verbose=False)
    coach = trainer(callback, Interrupts())
    with contextlib.suppress(ZeroDivisionError, SystemExit, KeyboardInterrupt):
        coach.fit(module, data(), data(1))
    assert "configure_optimizers" not in vars(module)
    assert set(vars(module)) <= names | {"_hparams"}
    assert all(not each._forward_pre_hooks for each in module.modules())
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(not o._optimizer_step_pre_hooks for o in coach.optimizers)
    assert (callback.trained, callback.frozen) == ([], [])


def test_it_pickles_before_and_in_a_fit() -> None:
    copies: list[LayerFreezing] = []

    class Pickles(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            copies.append(pickle.loads(pickle.dumps(callback)))
            copy.deepcopy(pl_module)

    callback = LayerFreezing({0: "head", 1: "high"}, warmup=2, verbose=False)
    trainer(callback, Pickles()).fit(Transfer(), data(), data(1))
    assert copies[1].state_dict()["count"] == 2
    assert copies[1].trained == []
    trainer(copies[1]).fit(Transfer(), data(), data(1))


def test_a_module_is_not_held_on_to() -> None:
    callback = freezing()
    module = Transfer()
    coach = trainer(callback)
    coach.fit(module, data(), data(1))
    for name in ("log", "log_dict"):
        delattr(callback, name)  # Lightning's own, methods of the module
    gone = weakref.ref(module.backbone)
    del module, coach
    gc.collect()
    assert gone() is None


def test_a_norm_without_parameters_thaws_with_the_entry_that_has_it() -> None:
    module, diary = Transfer(), Diary()
    trainer(LayerFreezing({0: "head", 1: ["plain", "high"]}), diary).fit(module, data(), data(1))
    plain = {f"backbone.plain.{name}" for name in ("running_mean", "running_var")}
    assert not plain & diary.moved[0]
    assert plain < diary.moved[1]


def test_modes_that_somebody_asked_for_are_those_after_thawing() -> None:
    """A pre-trained backbone often comes in evaluation; whoever calls `.train()` means it."""
    backbone = Backbone()
    parts = FrozenParts(backbone)
    backbone.eval()
    parts.hold(list(backbone.parameters()), [])
    parts.calm()
    parts.hold([], list(backbone.parameters()))
    assert not backbone.low.norm.training
    parts.hold(list(backbone.parameters()), [])
    backbone.train()
    parts.calm()
    assert not backbone.low.norm.training
    parts.hold([], list(backbone.parameters()))
    assert backbone.low.norm.training


def test_it_works_in_both_namespaces(lightning: ModuleType) -> None:
    module_class: Any = lightning.LightningModule
    importlib.import_module(f"{lightning.__name__}.callbacks")

    class Plain(module_class):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = Backbone(), nn.Linear(6, 3)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return functional.cross_entropy(self.head(self.backbone(batch[0])), batch[1])

        def configure_optimizers(self) -> Any:
            return sgd(self.parameters())

    module = Plain()
    before = kept(module)
    lightning.Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=[LayerFreezing({0: "head", 1: "high"}, verbose=False)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    ).fit(module, data())
    assert top(moved(before, kept(module))) == HEAD | {"backbone.high"}
