"""The last step of a fit is known before it is taken, wherever that is possible (P38)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, GradientAccumulationScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_diag.probe.ending import Ending
from lightning_diag.probe.run import Run

# With stand-ins --------------------------------------------------------------------------------


def trainer(**options: Any) -> SimpleNamespace:
    defaults = {
        "max_steps": -1,
        "max_epochs": 3,
        "global_step": 0,
        "current_epoch": 0,
        "num_training_batches": 10,
        "accumulate_grad_batches": 1,
        "early_stopping_callbacks": [],
        "is_last_batch": False,
    }
    return SimpleNamespace(**{**defaults, **options})


def last_steps(stub: SimpleNamespace, epochs: int, batches: int) -> list[tuple[int, int]]:
    """Return epoch and batch of each step that is taken for the last one."""
    ending = Ending(Run(stub, nn.Module()))
    found, steps = [], 0
    for epoch in range(epochs):
        stub.current_epoch = epoch
        ending.begin_epoch()
        for first in range(0, batches, stub.accumulate_grad_batches):
            stub.is_last_batch = first == batches - 1
            if ending.reached(first, steps):
                found.append((epoch, first))
            steps += 1
            stub.global_step += 1
    return found


def test_the_last_epoch_ends_with_its_last_batch() -> None:
    assert last_steps(trainer(), 3, 10) == [(2, 9)]


@pytest.mark.parametrize(("accumulate", "first"), [(2, 8), (3, 9), (4, 8), (10, 0), (99, 0)])
def test_accumulated_steps_begin_earlier(accumulate: int, first: int) -> None:
    """The last one is often shorter."""
    stub = trainer(accumulate_grad_batches=accumulate)
    assert last_steps(stub, 3, 10) == [(2, first)]


def test_steps_end_a_fit_before_epochs_do() -> None:
    assert last_steps(trainer(max_steps=14, max_epochs=-1), 1, 14) == [(0, 13)]
    assert last_steps(trainer(max_steps=3, max_epochs=5), 1, 3) == [(0, 2)]


def test_epochs_end_a_fit_before_steps_do() -> None:
    assert last_steps(trainer(max_steps=999, max_epochs=2), 2, 10) == [(1, 9)]


def test_a_resumed_fit_counts_from_where_it_was() -> None:
    stub = trainer(max_steps=14, max_epochs=-1, global_step=10)
    assert last_steps(stub, 1, 4) == [(0, 3)]


@pytest.mark.parametrize("limit", [None, -1])
def test_an_endless_fit_has_no_last_step(limit: int | None) -> None:
    assert last_steps(trainer(max_epochs=limit), 3, 10) == []


def test_a_fit_that_may_stop_early_may_end_with_any_epoch() -> None:
    stub = trainer(max_epochs=-1, early_stopping_callbacks=[object()])
    assert last_steps(stub, 3, 10) == [(0, 9), (1, 9), (2, 9)]


def test_of_unknown_length_the_trainer_says_which_batch_is_the_last() -> None:
    assert last_steps(trainer(num_training_batches=float("inf")), 3, 10) == [(2, 9)]


def test_optimizers_that_all_step_in_one_batch() -> None:
    """P11: with manual optimisation, each of their steps counts."""
    module: Any = nn.Module()
    module.automatic_optimization = False
    stub = trainer(max_steps=10, max_epochs=-1)
    ending, found = Ending(Run(stub, module)), []
    for batch in range(5):
        if ending.reached(batch, batch):
            found.append(batch)
        stub.global_step += 2
    assert found == [4]


# With the real trainer -------------------------------------------------------------------------


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.net(batch).square().mean()
        self.log("loss", loss, on_epoch=True, on_step=False)
        return torch.as_tensor(loss)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


class Two(Module):
    """Two optimizers, both stepped in every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            loss = self.net(batch).square().mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return torch.as_tensor(loss)

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), 0.01) for _ in range(2)]


class Endless(IterableDataset[Tensor]):
    """Has no length, though it does end."""

    def __iter__(self) -> Iterator[Tensor]:
        yield from torch.ones(10, 2)


class Watch(pl.Callback):
    """Asks before every step whether it is the last, as the probe does."""

    def __init__(self) -> None:
        self.steps = 0
        self.predicted: list[int] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.ending = Ending(Run.of(trainer, pl_module))
        self.before = self.steps
        self.in_window = self.stepped = False

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0 or self.steps == self.before:
            self.ending.begin_epoch()
        if not self.in_window and self.ending.reached(batch_idx, self.steps - self.before):
            self.predicted.append(self.steps)
        self.in_window = True

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        self.stepped = True

    def on_train_batch_end(self, *args: Any) -> None:
        if self.stepped:
            self.steps += 1
            self.in_window = self.stepped = False


def fit(module: pl.LightningModule, loader: Any, watch: Watch, **options: Any) -> pl.Trainer:
    callbacks = [watch, *options.pop("callbacks", [])]
    result = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        **options,
    )
    result.fit(module, loader)
    return result


def sized() -> DataLoader[Any]:
    return DataLoader(torch.ones(10, 2))  # type: ignore[arg-type]


def iterable() -> DataLoader[Any]:
    return DataLoader(Endless())


def early() -> list[Any]:
    return [EarlyStopping("loss", patience=0, min_delta=99.0, check_on_train_epoch_end=True)]


CASES: dict[str, tuple[Callable[[], DataLoader[Any]], dict[str, Any], list[int]]] = {
    "max_epochs": (sized, {"max_epochs": 2}, [19]),
    "max_steps": (sized, {"max_steps": 13}, [12]),
    "max_steps within max_epochs": (sized, {"max_steps": 7, "max_epochs": 5}, [6]),
    "max_epochs within max_steps": (sized, {"max_steps": 70, "max_epochs": 2}, [19]),
    "accumulation": (sized, {"max_epochs": 2, "accumulate_grad_batches": 4}, [5]),
    "accumulation and max_steps": (sized, {"max_steps": 5, "accumulate_grad_batches": 4}, [4]),
    "limit_train_batches": (sized, {"max_epochs": 2, "limit_train_batches": 3}, [5]),
    "fast_dev_run": (sized, {"fast_dev_run": 2}, [1]),
    "iterable": (iterable, {"max_epochs": 2}, [19]),
    "iterable and max_steps": (iterable, {"max_steps": 13}, [12]),
    "iterable and accumulation": (iterable, {"max_epochs": 2, "accumulate_grad_batches": 3}, [7]),
    "early stopping": (sized, {"max_epochs": 9}, [9, 19]),
    "early stopping and iterable": (iterable, {"max_epochs": 9}, [9, 19]),
    "scheduled accumulation": (sized, {"max_epochs": 2}, [13]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_trainer_ends_with_the_step_that_was_foretold(case: str) -> None:
    loader, options, expected = CASES[case]
    callbacks: list[Any] = early() if "early" in case else []
    if case == "scheduled accumulation":  # 10 steps, then windows of 3, 3, 3 and 1 batches
        callbacks = [GradientAccumulationScheduler({0: 1, 1: 3})]
    watch = Watch()
    fit(Module(), loader(), watch, callbacks=callbacks, **options)
    assert watch.predicted == expected
    assert watch.predicted[-1] == watch.steps - 1


def test_what_cannot_be_known_is_not_foretold() -> None:
    """That a window of four batches ends after two is known when it is under way."""
    watch = Watch()
    fit(Module(), iterable(), watch, max_epochs=1, accumulate_grad_batches=4)
    assert (watch.steps, watch.predicted) == (3, [])


def test_two_optimizers_end_where_both_have_stepped() -> None:
    watch = Watch()
    fit(Two(), sized(), watch, max_steps=8, max_epochs=-1)
    assert (watch.steps, watch.predicted) == (4, [3])


def test_a_second_fit_ends_anew() -> None:
    watch, module = Watch(), Module()
    first = fit(module, sized(), watch, max_epochs=1)
    first.fit_loop.max_epochs = 2
    first.fit(module, sized())
    assert watch.predicted == [9, 19]
