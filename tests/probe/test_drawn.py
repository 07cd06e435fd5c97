"""Which positions of the data set a training batch holds, under any loader of torch's (P32)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from runs import Classifier, seeded, trainer
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

from lightning_diag.probe.drawn import Drawn

N = 22


class Positions(TensorDataset):
    """Each input tells its position."""

    def __init__(self, samples: int = N) -> None:
        x = torch.arange(samples).float()[:, None].expand(-1, 8).contiguous()
        super().__init__(x, torch.arange(samples) % 3)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.zeros(8), 0)] * 8)


class Batches:
    """No loader at all."""

    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.zeros(2, 8), torch.zeros(2, dtype=torch.long))])


class Pairs(Sampler[list[int]]):
    """A batch sampler with an order of its own, without a sampler and without a length."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter([[5, 3], [1, 2, 0], [7]])


class Recorder(pl.Callback):
    """Compares what is told with what the batch holds."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.told: list[list[int] | None] = []
        self.drawn: Drawn | None = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.drawn = Drawn.join(trainer, self)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self.drawn is not None
        found = self.drawn.positions(trainer)
        self.told.append(None if found is None else found.tolist())
        self.batches.append(batch[0][:, 0].long().tolist())

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        assert self.drawn is not None
        self.drawn.leave(trainer, self)
        self.drawn.leave(trainer, self)


def fit(loader: Any, **options: Any) -> Recorder:
    recorder = Recorder()
    trainer(recorder, **options).fit(Classifier(nn.Linear(8, 3)), loader)
    return recorder


def loaders() -> dict[str, Any]:
    data = Positions()
    order = BatchSampler(SubsetRandomSampler([9, 4, 4, 1]), 3, drop_last=False)
    return {
        "in order": DataLoader(data, 4),
        "shuffled": DataLoader(data, 4, shuffle=True, drop_last=True),
        "distributed": DataLoader(data, 4, sampler=DistributedSampler(data, 2, 1)),
        "batch sampler": DataLoader(data, batch_sampler=order),
        "own batch sampler": DataLoader(data, batch_sampler=Pairs()),
        "list of batches": DataLoader(data, batch_sampler=[[1, 2], [3]]),
        "batches as indices": DataLoader(data, sampler=order, batch_size=None),
        "workers that persist": DataLoader(
            data, 4, shuffle=True, num_workers=2, persistent_workers=True
        ),
    }


@pytest.mark.parametrize("kind", loaders())
def test_each_batch_is_told_as_it_was_drawn(kind: str) -> None:
    found = fit(loaders()[kind], max_epochs=3)
    assert len(found.batches) > 3
    assert found.told == found.batches


def test_a_subset_counts_its_own_positions() -> None:
    data = Subset(Positions(), [7, 9, 11])
    found = fit(DataLoader(data, 2), max_epochs=1)
    assert found.batches == [[7, 9], [11]]
    assert found.told == [[0, 1], [2]]


def test_epochs_that_are_cut_short_do_not_shift_the_next() -> None:
    """Also where workers have loaded ahead."""
    loader = DataLoader(Positions(), 2, shuffle=True, num_workers=1)
    found = fit(loader, max_epochs=2, limit_train_batches=2)
    assert found.told == found.batches
    assert len(found.told) == 4


def test_somebody_who_iterates_the_loader_meanwhile_does_not_shift_anything() -> None:
    class Curious(pl.Callback):
        def on_train_batch_start(
            self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
        ) -> None:
            next(iter(trainer.train_dataloader))

    recorder = Recorder()
    loader = DataLoader(Positions(), 4, shuffle=True)
    trainer(Curious(), recorder, max_epochs=1).fit(Classifier(nn.Linear(8, 3)), loader)
    assert recorder.told == recorder.batches


def named() -> DataLoader[Any]:
    class Named(Dataset[Any]):
        def __getitem__(self, name: Any) -> Any:
            return torch.zeros(8), 0

        def __len__(self) -> int:
            return 2

    return DataLoader(Named(), batch_sampler=[["a", "b"]])


@pytest.mark.parametrize(
    "make",
    [
        lambda: DataLoader(Stream(), 4),
        named,
        Batches,
    ],
)
def test_what_cannot_be_known_is_not_told(make: Any) -> None:
    found = fit(make(), max_epochs=1)
    assert found.told
    assert set(map(str, found.told)) == {"None"}


def test_several_loaders_are_not_told() -> None:
    class Both(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch[0], batch_idx)

    recorder = Recorder()

    def see(trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        assert recorder.drawn is not None
        recorder.told.append(recorder.drawn.positions(trainer))  # type: ignore[arg-type]

    recorder.on_train_batch_start = see  # type: ignore[method-assign]
    both = [DataLoader(Positions(), 4), DataLoader(Positions(), 4)]
    trainer(recorder, max_epochs=1).fit(Both(nn.Linear(8, 3)), both)
    assert set(recorder.told) == {None}


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_and_random_states_are_those_of_a_bare_run(workers: int) -> None:
    def run(*callbacks: Any) -> tuple[Any, Any]:
        loader = DataLoader(Positions(), 4, shuffle=True, num_workers=workers)
        module = Classifier(nn.Sequential(nn.Dropout(), nn.Linear(8, 3)))
        trainer(*callbacks).fit(module, loader)
        return module.state_dict(), torch.get_rng_state()

    bare, state = seeded(run)
    watched, after = seeded(lambda: run(Recorder()))
    assert all(torch.equal(bare[name], watched[name]) for name in bare)
    assert torch.equal(state, after)


def test_nothing_is_left_after_the_last_one_leaves() -> None:
    loader = DataLoader(Positions(), 4, shuffle=True)
    before = dict(loader.__dict__)
    first, second = Recorder(), Recorder()
    driver = trainer(first, second)
    for epochs in (2, 4):
        driver.fit_loop.max_epochs = epochs
        driver.fit(Classifier(nn.Linear(8, 3)), loader)
        assert type(loader) is DataLoader
        assert loader.__dict__ == before
        assert not {name for name in driver.strategy.__dict__ if "diag" in name}
        assert "process_dataloader" not in driver.strategy.__dict__
    assert first.told == second.told == first.batches
    assert len(first.told) == 4 * 6


def test_a_loader_keeps_its_class_where_another_one_was_derived_from_it() -> None:
    """Others do as we do, and may let go after us."""
    loader = DataLoader(Positions(), 4)

    class Watched(Recorder):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            loader.__class__ = type("DataLoader", (type(loader),), {})

    found = Watched()
    trainer(found, max_epochs=1).fit(Classifier(nn.Linear(8, 3)), loader)
    assert [len(x) for _, x in loader] == [4, 4, 4, 4, 4, 2]
    assert not {name for name in loader.__dict__ if "diag" in name}
