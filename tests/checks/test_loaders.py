"""Checks of loaders, and what they read samples with."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

from checks.sick_data import Greedy, Noisy, Stuck, Unseeded, noisy
from checks.subjects import (
    SAMPLES,
    Pair,
    Plain,
    Stream,
    TwoLoaders,
    labels,
    loader,
    mlp,
    numbers,
    table,
)
from checks.test_inputs import judged, reason, said
from lightning_diag.before_training import subject
from lightning_diag.checks import items as module_of_items
from lightning_diag.checks.data import Unavailable
from lightning_diag.checks.fingerprints import fingerprint, names_of
from lightning_diag.checks.generators import generators_of, state_of, still
from lightning_diag.checks.items import items, span_of
from lightning_diag.checks.lost_sample import LostSample
from lightning_diag.checks.nondeterministic_loader import NondeterministicLoader
from lightning_diag.checks.positions import population, spread
from lightning_diag.checks.repeated_augmentation import RepeatedAugmentation
from lightning_diag.checks.repeated_sample import RepeatedSample
from lightning_diag.checks.unshuffled_training import UnshuffledTraining, class_changes

X = numbers(SAMPLES, 8)
SORTED = labels().sort().values


def pair(data: Any) -> Pair:
    """Return a classifier with some data."""
    return Plain(mlp()), data


# -- unshuffled-training -----------------------------------------------------------------------


def test_sorted_data_without_shuffling_are_bad() -> None:
    text = said(UnshuffledTraining(), pair(loader(X, SORTED, shuffle=False)))
    assert text.startswith("bad")
    assert "the class changes 2 times" in text


def test_sorted_data_that_are_shuffled_are_well() -> None:
    shuffled = [
        loader(X, SORTED),
        loader(X, SORTED, shuffle=False, sampler=SubsetRandomSampler(range(SAMPLES))),
        DataLoader(Subset(TensorDataset(X, SORTED), torch.randperm(SAMPLES).tolist()), 16),
    ]
    assert [judged(UnshuffledTraining(), pair(data)) for data in shuffled] == [[], [], []]


def test_unsorted_data_and_single_batches_need_no_shuffling() -> None:
    assert judged(UnshuffledTraining(), pair(loader(X, labels(), shuffle=False))) == []
    whole = loader(X, SORTED, shuffle=False, batch_size=SAMPLES)
    assert judged(UnshuffledTraining(), pair(whole)) == []


def test_changes_of_class_are_counted_as_they_come_by_chance() -> None:
    y = torch.randint(0, 4, (2000,), generator=torch.Generator().manual_seed(1))
    seen, expected = class_changes(y)
    assert seen == pytest.approx(expected, rel=0.05)


# -- lost-sample, repeated-sample --------------------------------------------------------------


def test_a_loader_without_a_batch_is_bad() -> None:
    text = said(LostSample(), pair(loader(X, SORTED, batch_size=65, drop_last=True)))
    assert (
        text
        == "bad: The training loader has no batch: 64 samples, with batches of 65 and `drop_last`."
    )
    assert judged(LostSample(), pair(loader(X, SORTED, batch_size=64, drop_last=True))) == []


def test_the_same_samples_dropped_each_time_count_from_a_tenth_on() -> None:
    def dropped(size: int, **options: Any) -> Any:
        return pair(loader(X, SORTED, batch_size=size, drop_last=True, **options))

    assert "14 of 64 training samples are in no epoch (22%)" in said(
        LostSample(), dropped(50, shuffle=False)
    )
    assert judged(LostSample(), dropped(50)) == []
    assert judged(LostSample(), dropped(59, shuffle=False)) == []


class Part(Sampler[int]):
    """Draws the first part, or another one in each epoch."""

    def __init__(self, n: int, *, moves: bool) -> None:
        self.n, self.moves, self.epoch = n, moves, 0

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        self.epoch += self.moves
        yield from (i % SAMPLES for i in range(self.n * self.epoch, self.n * (self.epoch + 1)))


def test_a_sampler_that_leaves_samples_out_is_found_and_stays_where_it_is() -> None:
    data = loader(X, SORTED, shuffle=False, sampler=Part(50, moves=False))
    assert "14 of 64" in said(LostSample(), pair(data))
    moving = Part(50, moves=True)
    assert judged(LostSample(), pair(loader(X, SORTED, shuffle=False, sampler=moving))) == []
    assert moving.epoch == 0


def test_subsets_are_chosen_and_not_lost() -> None:
    data = loader(X, SORTED, shuffle=False, sampler=SubsetRandomSampler(range(20)))
    assert judged(LostSample(), pair(data)) == []


def test_a_sampler_that_repeats_itself_is_found() -> None:
    data = loader(X, SORTED, shuffle=False, sampler=Stuck())
    assert "3 different samples in 63 draws" in said(RepeatedSample(), pair(data))
    few = loader(X, SORTED, shuffle=False, sampler=Stuck(9))
    assert judged(RepeatedSample(), pair(few)) == []


def test_workers_that_all_give_everything_are_bad() -> None:
    """Real worker processes."""
    text = said(RepeatedSample(), pair(DataLoader(Greedy(), 8, num_workers=4)))
    assert text.startswith("bad: Each of 4 worker processes")


@pytest.mark.parametrize(
    "data",
    [
        DataLoader(Greedy(shares=True), 8, num_workers=2),
        DataLoader(Greedy(), 8, num_workers=1),
        DataLoader(Stream(), 8, num_workers=2),
    ],
)
def test_workers_that_share_or_draw_are_well(data: Any) -> None:
    assert judged(RepeatedSample(), pair(data)) == []


# -- repeated-augmentation ---------------------------------------------------------------------


def _fixed(worker: int) -> None:
    np.random.seed(3)  # noqa: NPY002  # what users do


def _by_worker(worker: int) -> None:
    np.random.seed(worker)  # noqa: NPY002  # what users do


def _anew(worker: int) -> None:
    info: Any = torch.utils.data.get_worker_info()
    info.dataset.transforms[0] = np.random.default_rng(torch.initial_seed())


def test_a_generator_in_the_data_set_is_the_same_in_all_workers() -> None:
    text = said(RepeatedAugmentation(), noisy(num_workers=3))
    assert "all 3 worker processes begin" in text
    assert "`dataset.transforms.0` in each epoch" in text


def test_one_worker_repeats_itself_from_epoch_to_epoch() -> None:
    assert "worker processes begin" in said(RepeatedAugmentation(), noisy(num_workers=1))
    assert judged(RepeatedAugmentation(), noisy(num_workers=1, persistent_workers=True)) == []


def test_a_fixed_seed_for_all_workers_is_found() -> None:
    data = DataLoader(Noisy(), 16, num_workers=2, worker_init_fn=_fixed)
    assert "all 2 worker processes begin with the same state of `numpy.random` in each epoch" in (
        said(RepeatedAugmentation(), pair(data))
    )


def test_a_seed_by_worker_still_repeats_in_each_epoch() -> None:
    data = DataLoader(Noisy(), 16, num_workers=2, worker_init_fn=_by_worker)
    text = said(RepeatedAugmentation(), pair(data))
    assert "read training samples, worker processes begin with the same state" in text


def test_what_torch_seeds_in_workers_is_well() -> None:
    """torch has seeded NumPy's global generator in workers since 1.9."""
    assert judged(RepeatedAugmentation(), pair(DataLoader(Noisy(), 16, num_workers=2))) == []
    assert judged(RepeatedAugmentation(), noisy(worker_init_fn=_anew)) == []


def test_processes_that_take_long_to_start_are_not_started() -> None:
    spawned = noisy(multiprocessing_context="spawn")
    assert "started by spawn, which takes" in reason(RepeatedAugmentation(), spawned)


def test_without_workers_there_is_one_generator() -> None:
    assert judged(RepeatedAugmentation(), noisy(num_workers=0)) == []


# -- nondeterministic-loader -------------------------------------------------------------------


def test_noise_that_no_seed_reaches_is_a_note() -> None:
    text = said(NondeterministicLoader(), pair(DataLoader(Unseeded(), 16)))
    assert text.startswith("note")
    assert "tensor `0` differs" in text


@pytest.mark.parametrize("dataset", [Noisy(), Noisy(np.random.default_rng(0)), Stream()])
def test_noise_that_a_seed_reaches_is_well(dataset: Any) -> None:
    assert judged(NondeterministicLoader(), pair(DataLoader(dataset, 16))) == []


# -- what samples are read with ----------------------------------------------------------------


def test_generators_are_found_wherever_they_are_held_and_put_back() -> None:
    class Held:
        def __init__(self) -> None:
            self.dataset = Noisy(np.random.default_rng(1))
            self.more: Any = {"a": [random.Random(2)], "b": np.random.RandomState(3)}
            self.torch = torch.Generator().manual_seed(4)
            self.itself = self

    held = Held()
    found = generators_of(held)
    assert sorted(found) == ["dataset.transforms.0", "more.a.0", "more.b", "torch"]
    before = {name: state_of(generator) for name, generator in found.items()}
    with still(held):
        _ = held.dataset[0], held.more["a"][0].random(), held.more["b"].rand()
        torch.rand(1, generator=held.torch)
        assert all(state_of(found[name]) != state for name, state in before.items())
    assert {name: state_of(generator) for name, generator in found.items()} == before


def test_what_an_epoch_draws_from_is_known_for_each_kind_of_sampler() -> None:
    data = TensorDataset(X)
    whole = list(range(SAMPLES))
    loaders = {
        "shuffled": (DataLoader(data, 4, shuffle=True), whole),
        "subset": (DataLoader(data, 4, sampler=SubsetRandomSampler([5, 1])), [5, 1]),
        "own": (DataLoader(data, 4, sampler=Part(9, moves=False)), list(range(9))),
        "batches": (
            DataLoader(data, batch_sampler=BatchSampler(SequentialSampler(range(7)), 2, False)),
            list(range(SAMPLES)),
        ),
        "short": (DataLoader(data, 4, sampler=RandomSampler(data, num_samples=3)), whole),
    }
    assert {name: list(population(each)) for name, (each, _) in loaders.items()} == {
        name: expected for name, (_, expected) in loaders.items()
    }


def test_samples_are_from_all_over_large_data_and_the_same_each_time() -> None:
    drawn = spread(range(10_000_000), 1000)
    assert drawn == spread(range(10_000_000), 1000)
    assert len(set(drawn)) == len(drawn) > 990
    assert torch.tensor(drawn).double().mean() == pytest.approx(5e6, rel=0.05)


def test_samples_are_read_as_long_as_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_of_items, "SECONDS", 0.0)
    assert len(items(subject(*pair(table())), "train").positions) == 1


def test_large_samples_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_of_items, "_BYTES", 200)  # a sample has 40
    read = items(subject(*pair(table())), "train")
    assert (len(read.whole), len(read.positions)) == (5, SAMPLES)
    assert read.small["1"].shape == (SAMPLES, 1)


def test_samples_of_unlike_sizes_are_read_one_by_one() -> None:
    class Ragged(Dataset[Any]):
        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> Any:
            return torch.ones(1 + index), index % 3

    read = items(subject(*pair(DataLoader(Ragged(), 1))), "train")
    assert read.small["1"].shape == (20, 1)
    assert read.spans["0"].samples == 20


def test_spans_leave_samples_with_nan_out_and_count_them() -> None:
    x = torch.tensor([[1.0, 5.0], [torch.nan, 9.0], [3.0, 4.0]])
    span = span_of(x[:2]).joined(span_of(x[2:]))
    assert (span.low.tolist(), span.high.tolist()) == ([1.0, 4.0], [3.0, 5.0])
    assert (span.broken, span.samples) == (1, 3)


def test_data_without_positions_say_why() -> None:
    why = {
        reason(LostSample(), pair(DataLoader(Stream(), 8))),
        reason(LostSample(), (TwoLoaders(mlp()), {"a": table(), "b": table()})),
        reason(LostSample(), pair([torch.zeros(4, 8)])),
    }
    assert why == {
        "the training data (Stream) can only be iterated from their start",
        "several loaders train together",
        "the training data (list) come from no `DataLoader`",
    }


def test_a_sample_that_cannot_be_read_is_said() -> None:
    class Broken(Dataset[Any]):
        def __len__(self) -> int:
            return 9

        def __getitem__(self, index: int) -> Any:
            raise OSError("gone")

    with pytest.raises(Unavailable, match="a sample could not be read: OSError: gone"):
        items(subject(*pair(DataLoader(Broken(), 2))), "train")


def test_fingerprints_see_values_shapes_and_pictures_but_no_labels() -> None:
    x = np.arange(6.0)
    same = {fingerprint(s) for s in ((x, 1), [x, 2], {"x": x, "y": 3})}
    assert len(same) == 1
    assert fingerprint(torch.ones(2, 3)) != fingerprint(torch.ones(3, 2))
    assert fingerprint("one text") != fingerprint("another")
    image = pytest.importorskip("PIL.Image")
    red, blue = (image.new("RGB", (2, 2), colour) for colour in ("red", "blue"))
    assert fingerprint((red, 0)) == fingerprint((red.copy(), 1)) != fingerprint((blue, 0))


def test_names_that_repeat_are_no_names() -> None:
    class Named(list[int]):
        samples = (("a.png", 0), ("a.png", 1))

    assert names_of(Named([1, 2])) is None
