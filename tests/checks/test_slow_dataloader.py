"""A loader is timed as training would use it: with its workers, on a copy."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from checks.subjects import HEALTHY, Plain, made, mlp, table
from lightning_diag.before_training import subject
from lightning_diag.checks import run
from lightning_diag.checks.data import Unavailable
from lightning_diag.checks.slow_dataloader import SlowDataloader
from lightning_diag.checks.waiting import Fetch, fetches_of, share, timed
from lightning_diag.rules.slow_dataloader import SlowDataloader as Rule


class Slow(Dataset[Any]):
    """Takes its time for each sample."""

    def __init__(self, seconds: float, samples: int = 64) -> None:
        self.seconds, self.samples = seconds, samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> Any:
        time.sleep(self.seconds)
        return torch.zeros(8), 0


class Ticks:
    """Batches that arrive at given times, of a clock that stands still in between."""

    def __init__(self, *times: float) -> None:
        self.times, self.now = times, 0.0

    def __iter__(self) -> Any:
        for now in self.times:
            self.now = now
            yield 0

    def clock(self) -> float:
        """Return the time."""
        return self.now


def test_without_workers_the_middle_of_all_but_the_first_counts() -> None:
    ticks = Ticks(5.0, 6.0, 7.0, 17.0, 18.0)
    assert timed(ticks, 0, 100.0, ticks.clock) == Fetch(1.0, 0, 4)


def test_with_workers_only_whole_turns_count_and_not_their_start() -> None:
    ticks = Ticks(9.0, 9.1, 9.2, 12.0, 12.1, 12.2, 15.0, 99.0)
    assert timed(ticks, 3, 100.0, ticks.clock) == Fetch(1.0, 3, 6)


def test_a_slow_loader_is_not_waited_for_longer_than_told() -> None:
    ticks = Ticks(*[10.0 * i for i in range(1, 20)])
    assert timed(ticks, 0, 5.0, ticks.clock).batches == 3


@pytest.mark.parametrize("workers", [0, 4])
def test_too_few_batches_are_not_judged(workers: int) -> None:
    ticks = Ticks(1.0, 2.0)
    with pytest.raises(Unavailable, match="an epoch has fewer"):
        timed(ticks, workers, 100.0, ticks.clock)


def test_a_loader_with_workers_that_keeps_up_is_not_waited_for() -> None:
    assert share([Fetch(0.9, 4, 8)], 1.0) == 0.0
    assert share([Fetch(1.0, 0, 8)], 1.0) == 0.5
    assert share([Fetch(4.0, 4, 8)], 1.0) == 0.75


def test_thresholds_are_those_of_the_rule() -> None:
    assert SlowDataloader().fraction == Rule().fraction
    assert SlowDataloader().seconds == Rule().seconds


def test_the_users_workers_load(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def note(loader: Any, workers: int, seconds: float) -> Fetch:
        seen.extend([workers, loader.num_workers])
        return Fetch(1.0, workers, 4)

    monkeypatch.setattr("lightning_diag.checks.waiting.timed", note)
    data = DataLoader(Slow(0.0), 16, num_workers=3)
    fetches_of(subject(Plain(mlp()), data))
    assert seen == [3, 3]
    assert data.num_workers == 3


def test_batches_of_two_workers_are_timed_over_whole_turns() -> None:
    data = DataLoader(Slow(0.0), 1, num_workers=2)
    (fetch,) = fetches_of(subject(Plain(mlp()), data))
    assert (fetch.workers, fetch.batches) == (2, 4)
    assert fetch.seconds > 0


def test_several_loaders_are_timed_one_by_one() -> None:
    fetches = fetches_of(subject(*made(HEALTHY["two loaders"])))
    assert len(fetches) == 2


def test_data_in_memory_are_fast() -> None:
    assert run([SlowDataloader()], subject(Plain(mlp()), table())).findings == []
