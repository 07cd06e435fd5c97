"""Batches are those that training would get, and taking them moves nothing (P26)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from checks.traces import differences, everything
from lightning_diag.checks.data import Unavailable, clone, copies, first_batches, leaves

X = torch.arange(12.0)


class Stateful(Sampler[int]):
    """Shuffles a list of its own in place."""

    def __init__(self) -> None:
        self.order = list(range(12))

    def __iter__(self) -> Iterator[int]:
        """Yield another order each time."""
        random.shuffle(self.order)
        yield from self.order

    def __len__(self) -> int:
        return len(self.order)


class Counting(Dataset[Tensor]):
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __getitem__(self, index: int) -> Tensor:
        """Return a sample with drawn noise."""
        self.asked += 1
        return X[index] + torch.rand(())

    def __len__(self) -> int:
        return len(X)


class Counter(IterableDataset[int]):
    """Goes on where it was left."""

    def __init__(self) -> None:
        self.position = 0

    def __iter__(self) -> Iterator[int]:
        """Yield numbers that nobody has had."""
        while self.position < 100:
            self.position += 1
            yield self.position


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def _loaders() -> dict[str, Any]:
    data = TensorDataset(X)
    sampler = RandomSampler(data, generator=_generator())
    return {
        "plain": DataLoader(data, 4, shuffle=True),
        "generator": DataLoader(data, 4, shuffle=True, generator=_generator()),
        "sampler": DataLoader(data, 4, sampler=sampler),
        "batch sampler": DataLoader(data, batch_sampler=BatchSampler(sampler, 3, drop_last=False)),
        "weighted": DataLoader(data, 4, sampler=WeightedRandomSampler([1.0] * 12, 12)),
        "stateful": DataLoader(data, 4, sampler=Stateful()),
        "counting": DataLoader(Counting(), 4, shuffle=True),
        "part": DataLoader(Subset(Counting(), range(8)), 4),
        "iterable": DataLoader(Counter(), 4),
        "list": [X[:4], X[4:8]],
        "two": {"a": DataLoader(data, 4, shuffle=True), "b": DataLoader(data, 12)},
    }


@pytest.mark.parametrize("kind", _loaders())
def test_first_batches_are_those_of_training_and_nothing_moves(kind: str) -> None:
    torch.manual_seed(1)
    random.seed(1)
    loaders = _loaders()[kind]
    holder = torch.nn.Module()
    holder._trainer = None  # type: ignore[assignment]
    before = everything(holder, loaders)
    with torch.random.fork_rng():
        state = random.getstate()
        taken = first_batches(loaders, 2)
        random.setstate(state)
    assert differences(before, everything(holder, loaders)) == []
    several = isinstance(loaders, dict)
    expected = [] if several else [batch for batch, _ in zip(loaders, "xy", strict=False)]
    if kind not in ("counting", "part", "two"):
        assert str(taken) == str(expected)
    assert len(taken) == 2


def test_data_of_a_worker_process_are_the_same_and_no_process_stays() -> None:
    loader = DataLoader(TensorDataset(X), 4, num_workers=2, persistent_workers=True)
    assert [batch[0].tolist() for batch in first_batches(loader, 2)] == [
        X[:4].tolist(),
        X[4:8].tolist(),
    ]
    assert loader._iterator is None
    assert not torch.multiprocessing.active_children()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (None, "there are no training data"),
        (iter([X]), "the data (list_iterator) can be iterated only once"),
        ([], "the data (list) have no batch"),
        (DataLoader(TensorDataset(X[:0]), 4), "the data (DataLoader) have no batch"),
    ],
)
def test_what_cannot_be_taken_says_why(data: Any, why: str) -> None:
    with pytest.raises(Unavailable) as told:
        first_batches(data, 1)
    assert str(told.value) == why


def test_an_iterable_that_would_be_used_up_is_left_alone() -> None:
    class Once(IterableDataset[int]):
        def __init__(self) -> None:
            self.numbers = (number for number in range(8))

        def __iter__(self) -> Iterator[int]:
            return self.numbers

    loader = DataLoader(Once(), 4)
    with pytest.raises(Unavailable, match="Once draws from a generator, and iterating"):
        first_batches(loader, 1)
    assert len(list(loader)) == 2


def test_the_parts_of_collections_and_of_combined_loaders_are_found() -> None:
    one, two = DataLoader(TensorDataset(X)), DataLoader(TensorDataset(X))
    assert list(leaves({"a": one, "b": [two]})) == [one, two]
    combined = pl.utilities.CombinedLoader([one, two], "max_size_cycle")
    assert list(leaves(combined)) == [one, two]
    own = copies([one, two])
    assert [each.dataset.tensors[0] is X for each in own] == [True, True]
    assert own[0] is not one


def test_a_batch_that_cannot_be_copied_says_so() -> None:
    with pytest.raises(Unavailable, match=r"a batch \(generator\) cannot be copied"):
        clone(number for number in range(3))
