"""`OHEMSampler`: what it draws, alike on every rank (H4, P16)."""

from __future__ import annotations

import io
from collections import Counter
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from lightning_diag.hard.sampler import OHEMSampler

N = 40
LOSSES = torch.linspace(0.1, 4.0, N)
"""Sample 39 is the hardest."""


def trained(epoch: int = 1, losses: Tensor = LOSSES, **options: Any) -> OHEMSampler:
    """Return a sampler that has seen an epoch, and is about to draw another."""
    sampler = OHEMSampler(len(losses), **{"half_life": None, **options})
    sampler.note(torch.arange(len(losses)), losses)
    sampler.end_epoch()
    sampler.set_epoch(epoch)
    return sampler


def times(sampler: OHEMSampler, epochs: int) -> Tensor:
    """Count how often each sample comes in some epochs."""
    found = torch.zeros(len(sampler.losses))
    for epoch in range(1, epochs + 1):
        sampler.set_epoch(epoch)
        found += torch.bincount(sampler.draw(), minlength=len(found))
    return found


def test_the_first_epoch_is_an_ordinary_shuffle() -> None:
    sampler = OHEMSampler(N)
    first = list(sampler)
    assert sorted(first) == list(range(N))
    assert first != sorted(first)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert sorted(sampler) == list(range(N)), "nothing was noted yet"
    assert list(sampler) != first


def test_so_is_every_epoch_with_uniform_chances() -> None:
    sampler = trained(uniform=1.0)
    for epoch in range(1, 4):
        sampler.set_epoch(epoch)
        assert sorted(sampler) == list(range(N))


def test_warming_up_lasts_as_long_as_asked() -> None:
    sampler = trained(warmup=3)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert sorted(sampler) == list(range(N))
    sampler.set_epoch(3)
    assert sorted(sampler) != list(range(N))


@pytest.mark.parametrize("by", ["rank", "loss"])
def test_hard_samples_come_more_often_and_none_starves(by: Any) -> None:
    found = times(trained(by=by, uniform=0.2), 60)
    assert found[-1] > 2 * found[N // 2] > 3 * found[0] / 2
    assert found[0] >= 0.2 * 60 * 0.5
    assert found.sum() == 60 * N


def test_the_hardest_comes_so_many_times_as_often_as_the_easiest() -> None:
    """exp(1 / 0.5) before equal chances are mixed in."""
    easy, hard = trained(uniform=0.0, temperature=0.5).importance(torch.tensor([0, N - 1]))
    assert (easy / hard).item() == pytest.approx(7.389, rel=1e-3)


def test_hard_epochs_train_on_the_hardest_alone_for_as_long_as_others() -> None:
    sampler = trained(hardest=0.25, hard_epochs=2, mixed_epochs=1)
    kinds = []
    for epoch in range(1, 7):
        sampler.set_epoch(epoch)
        drawn = Counter(sampler)
        assert sum(drawn.values()) == len(sampler) == N
        kinds.append(set(drawn) == set(range(N - N // 4, N)))
        if kinds[-1]:
            assert set(drawn.values()) == {4}
    assert kinds == [False, True, True, False, True, True]


def test_without_replacement_no_sample_comes_twice() -> None:
    sampler = trained(replacement=False, size=0.5)
    found = torch.zeros(N)
    for epoch in range(1, 60):
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        assert len(set(drawn)) == len(drawn) == len(sampler) == N // 2
        found[drawn] += 1
    assert found[-1] > 2 * found[0] > 0


def test_losses_that_are_not_renewed_are_forgotten() -> None:
    sampler = trained(half_life=2.0)
    shares = []
    for epoch in (1, 3, 30):
        sampler.set_epoch(epoch)
        shares.append(sampler.effective_share)
    assert shares[0] < shares[1] < shares[2]
    assert shares[2] == pytest.approx(1.0)


def test_classes_keep_their_shares() -> None:
    """Also where one class has all the hard samples, and in hard epochs."""
    classes = (torch.arange(N) >= 30).long()
    sampler = OHEMSampler(N, keep_classes=True, hardest=0.2, mixed_epochs=1)
    sampler.note(torch.arange(N), LOSSES, classes)
    sampler.end_epoch()
    for epoch in (1, 2, 3, 4):
        sampler.set_epoch(epoch)
        drawn = list(sampler)
        assert sum(i >= 30 for i in drawn) == 10
        assert len(set(drawn)) == 8 or not sampler.how.is_hard(epoch)


def test_weights_make_up_for_what_is_drawn_more_often() -> None:
    sampler = trained(uniform=0.3)
    mean = 0.0
    for epoch in range(1, 301):
        sampler.set_epoch(epoch)
        drawn = sampler.draw()
        mean += (LOSSES[drawn] * sampler.importance(drawn)).mean().item() / 300
    assert mean == pytest.approx(LOSSES.mean().item(), rel=0.01)
    assert LOSSES[sampler.draw()].mean() > 1.1 * LOSSES.mean()


def test_weights_of_a_shuffle_are_one() -> None:
    assert set(OHEMSampler(N).importance(torch.arange(N)).tolist()) == {1.0}


def test_a_subset_draws_from_its_own_positions_alone() -> None:
    pool = [3, 5, 8, 13, 21, 34]
    sampler = OHEMSampler(N, pool=pool)
    assert sorted(sampler) == pool
    sampler.note(torch.tensor(pool), LOSSES[pool])
    sampler.end_epoch()
    sampler.set_epoch(1)
    drawn = list(sampler)
    assert len(drawn) == 6
    assert set(drawn) <= set(pool)
    weights = sampler.importance(torch.tensor([3, 34]))
    assert weights[0] > 1 > weights[1]


@pytest.mark.parametrize("size", [0.5, 1.0, 2.5])
def test_an_epoch_is_as_long_as_asked(size: float) -> None:
    sampler = trained(size=size)
    assert len(list(sampler)) == len(sampler) == int(size * N)


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(
    "options", [{}, {"hardest": 0.3, "mixed_epochs": 1}, {"replacement": False, "size": 0.75}]
)
def test_ranks_share_what_one_process_draws(ranks: int, options: dict[str, Any]) -> None:
    """P16: the same samples, parts of one length, and none twice without replacement."""
    for epoch in (0, 1, 2):
        alone = list(trained(epoch, **options))
        parts = [
            list(trained(epoch, num_replicas=ranks, rank=rank, **options)) for rank in range(ranks)
        ]
        (length,) = {len(part) for part in parts}
        assert length == len(alone) // ranks
        turns = list(chain.from_iterable(zip(*parts, strict=True)))
        assert turns == alone[: length * ranks]
        if not options.get("replacement", True):
            assert len(set(turns)) == len(turns)


def test_lightning_takes_it_for_a_distributed_one() -> None:
    """It then neither replaces nor wraps it."""
    assert isinstance(OHEMSampler(N), DistributedSampler)


def test_epochs_and_seeds_differ() -> None:
    one, other = trained(seed=1), trained(seed=2)
    assert list(one) != list(other)
    first = list(one)
    one.set_epoch(2)
    assert list(one) != first
    one.set_epoch(1)
    assert list(one) == first


def test_the_table_takes_eight_bytes_a_sample() -> None:
    sampler = trained(losses=torch.rand(1000))
    assert len(list(sampler)) == 1000
    held = chain.from_iterable(
        x if isinstance(x, list | tuple) else [x] for x in vars(sampler).values()
    )
    tensors = [each for each in held if isinstance(each, Tensor)]
    assert sum(each.nbytes for each in tensors) == 8000


def test_what_is_noted_in_many_batches_is_all_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_diag.hard.noted._MERGED", 4)
    sampler = OHEMSampler(N)
    for i in range(N):
        sampler.note(torch.tensor([i]), LOSSES[i : i + 1])
        assert len(sampler._notes._new) < 4
    sampler.end_epoch()
    assert torch.equal(sampler.losses, LOSSES)


def test_a_sample_that_was_not_seen_keeps_its_loss_and_its_epoch() -> None:
    sampler = trained(epoch=3)
    sampler.note(torch.tensor([0]), torch.tensor([2.1]))
    sampler.end_epoch()
    assert sampler.losses[:2].tolist() == pytest.approx([(0.1 + 2.1) / 2, 0.2])
    assert sampler.seen_at[:2].tolist() == [3, 0]


def test_losses_that_are_no_numbers_are_left_out_and_counted() -> None:
    sampler = OHEMSampler(3)
    sampler.note(torch.arange(3), torch.tensor([torch.nan, torch.inf, 1.0]))
    sampler.end_epoch()
    assert sampler.left_out == 2
    sampler.set_epoch(1)
    assert len(list(sampler)) == 3


@pytest.mark.parametrize("by", ["rank", "loss"])
def test_samples_whose_loss_is_no_number_are_not_drawn_as_hard_ones(by: Any) -> None:
    losses = torch.where(LOSSES < 0.5, torch.nan, LOSSES)
    often = times(trained(losses=losses, by=by), 200)
    assert often[losses.isnan()].max() < often[-8:].min() / 2


def test_without_samples_there_is_nothing_to_draw() -> None:
    sampler = OHEMSampler(0)
    assert (len(sampler), list(sampler)) == (0, [])


def test_it_goes_on_in_the_middle_of_an_epoch() -> None:
    sampler = trained(epoch=2)
    rest = list(sampler)[12:]
    sampler.note(torch.tensor([1, 2]), torch.tensor([9.0, 8.0]))
    file = io.BytesIO()
    torch.save(sampler.state_dict(position=12), file)
    file.seek(0)
    other = OHEMSampler(N, half_life=None)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert list(other) == rest
    assert len(other) == N, "as Lightning counts, the epoch is as long as ever"
    for each in (sampler, other):
        each.note(torch.tensor([3]), torch.tensor([7.0]))
        each.end_epoch()
        each.set_epoch(3)
    assert torch.equal(sampler.losses, other.losses)
    assert list(sampler) == list(other)
    assert len(list(other)) == N


def test_an_epoch_that_had_ended_is_entered_at_once() -> None:
    sampler = trained(epoch=1)
    sampler.note(torch.tensor([1]), torch.tensor([9.0]))
    state = sampler.state_dict(position=N)
    other = OHEMSampler(N)
    other.load_state_dict(state, continues=False)
    sampler.end_epoch()
    assert torch.equal(sampler.losses, other.losses)
    other.set_epoch(1)
    assert len(list(other)) == N


def test_the_state_of_other_data_is_refused() -> None:
    with pytest.raises(ValueError, match="the state is that of 3 samples, and the data set has 40"):
        OHEMSampler(N).load_state_dict(OHEMSampler(3).state_dict())


def test_a_loader_of_torch_takes_it() -> None:
    data: Any = torch.arange(N)
    loader: DataLoader[Any] = DataLoader(data, 8, sampler=trained(), num_workers=1)
    batches = [batch.tolist() for batch in loader]
    assert list(chain.from_iterable(batches)) == list(trained())


@pytest.mark.parametrize("takes_seed", [False, True])
def test_random_states_are_those_of_torchs_own(takes_seed: bool) -> None:
    torch.manual_seed(3)
    expected = torch.get_rng_state()
    if takes_seed:
        list(torch.utils.data.RandomSampler(range(N)))
        expected = torch.get_rng_state()
        torch.manual_seed(3)
    list(OHEMSampler(N, takes_seed=takes_seed))
    assert torch.equal(torch.get_rng_state(), expected)


@pytest.mark.slow
def test_more_samples_are_drawn_than_torch_can() -> None:
    """`WeightedRandomSampler` ends at 2^24 categories."""
    samples = (1 << 24) + 1
    sampler = OHEMSampler(samples, size=100 / samples)
    sampler.losses.fill_(1.0)
    sampler.losses[-1] = 2.0
    sampler.set_epoch(1)
    assert len(list(sampler)) == 100
    with pytest.raises(RuntimeError, match="cannot exceed 2"):
        torch.multinomial(torch.ones(samples), 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "`size` must be a share of the samples above 0, got 0"),
        ({"replacement": False}, "`size` must be below 1 without replacement"),
        ({"smoothing": 1.0}, "`smoothing` must be from 0 to below 1, got 1.0"),
        ({"uniform": -0.1}, "`uniform` must be a share from 0 to 1, got -0.1"),
    ],
)
def test_what_is_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OHEMSampler(N, **options)
