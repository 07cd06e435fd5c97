"""From losses to the samples of an epoch (H4)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_diag.hard.draw import (
    chances,
    drawn,
    effective_share,
    expected,
    generator,
    hardest,
    ranks,
    weights,
)
from lightning_diag.hard.drawing import Drawing
from lightning_diag.hard.noted import updated

NAN = torch.nan


def slow_ranks(losses: list[float]) -> list[float]:
    """Count, for each loss, those below it and half of its equals."""
    known = [x for x in losses if not math.isnan(x)]
    most = max(1, len(known) - 1)
    return [
        (sum(y < x for y in known) + (sum(y == x for y in known) - 1) / 2) / most
        if not math.isnan(x)
        else NAN
        for x in losses
    ]


@pytest.mark.parametrize(
    "losses",
    [
        [0.5, 3.0, 0.5, 2.0],
        [-1.0, -2.0, 0.0, -0.0, 1e-30, 7.0],
        [1.0, 1.0, 1.0],
        [4.0, NAN, 1.0, NAN, 2.0],
        [1e30, 1e-30, -1e30, 1.0],
        [5.0],
        [NAN, NAN],
    ],
)
@pytest.mark.parametrize("large", [False, True], ids=["sorted", "counted"])
def test_ranks_are_those_of_a_slow_count(
    losses: list[float], large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr("lightning_diag.hard.draw._LARGE", 0)
    torch.testing.assert_close(
        ranks(torch.tensor(losses)), torch.tensor(slow_ranks(losses)), equal_nan=True
    )


def test_ranks_of_many_losses_are_those_of_a_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_diag.hard.draw._LARGE", 0)
    losses = torch.rand(5000, generator=generator(0, 0))
    found = ranks(losses)
    assert (found - losses.argsort().argsort() / 4999).abs().max() < 1e-3
    assert found.min() < 1e-3
    assert found.max() > 0.999


def test_losses_are_not_changed() -> None:
    losses = torch.tensor([2.0, NAN, -1.0])
    for by in ("rank", "loss"):
        weights(losses, torch.zeros(3), Drawing(by=by))
    hardest(losses, 0.5)
    assert losses.tolist()[::2] == [2.0, -1.0]
    assert losses[1].isnan()


def test_the_hardest_weighs_so_many_times_the_easiest_by_rank() -> None:
    found = weights(torch.tensor([9.0, 0.1, 3.0]), torch.zeros(3), Drawing(temperature=0.5))
    assert (found[0] / found[1]).item() == pytest.approx(math.exp(2))
    assert (found[0] / found[2]).item() == pytest.approx(math.exp(1))


def test_by_loss_weights_are_powers_of_it() -> None:
    losses = torch.tensor([8.0, 2.0])
    found = weights(losses, torch.zeros(2), Drawing("loss", temperature=0.5))
    assert (found[0] / found[1]).item() == pytest.approx(16.0)


def test_by_loss_negative_losses_count_from_the_lowest() -> None:
    losses = torch.tensor([-3.0, -1.0, 1.0])
    found = weights(losses, torch.zeros(3), Drawing("loss", temperature=1.0))
    assert found.tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("by", ["rank", "loss"])
@pytest.mark.parametrize("losses", [[1.0, 1.0], [NAN, NAN], [0.0, 0.0], [NAN, 3.0], [2.0]])
def test_without_differences_all_weigh_the_same(by: Any, losses: list[float]) -> None:
    found = weights(torch.tensor(losses), torch.zeros(len(losses)), Drawing(by, half_life=None))
    assert chances(found, 0.0).tolist() == [1 / len(losses)] * len(losses) or by == "rank"
    if len(set(map(str, losses))) == 1:
        assert len(set(found.tolist())) == 1


@pytest.mark.parametrize("by", ["rank", "loss"])
def test_a_sample_that_was_never_seen_weighs_as_much_as_the_hardest(by: Any) -> None:
    found = weights(torch.tensor([0.1, 5.0, NAN]), torch.zeros(3), Drawing(by, half_life=None))
    assert found[2] == found[1] > found[0]


@pytest.mark.parametrize("by", ["rank", "loss"])
def test_a_sample_that_was_seen_without_a_loss_weighs_as_much_as_the_easiest(by: Any) -> None:
    """Else one whose targets are all ignored would come again and again."""
    losses = torch.tensor([0.5, 5.0, -torch.inf, 1.0])
    found = weights(losses, torch.zeros(4), Drawing(by, half_life=None))
    assert found[2] <= found[0] < found[3] < found[1] == 1
    assert (found >= 0).all()
    alone = weights(losses[2:3], torch.zeros(1), Drawing(by))
    assert alone.tolist() == [1.0]


@pytest.mark.parametrize("by", ["rank", "loss"])
def test_old_losses_fade_towards_the_average(by: Any) -> None:
    how = Drawing(by, temperature=1.0, half_life=2.0)
    losses = torch.tensor([0.0, 4.0])

    def ratio(age: int) -> float:
        found = weights(losses, torch.full((2,), age), how)
        return (found[1] / found[0]).item()

    if by == "rank":
        assert ratio(0) == pytest.approx(math.e)
        assert ratio(2) == pytest.approx(math.exp(0.5))
    else:
        assert ratio(0) == math.inf
        assert ratio(2) == pytest.approx(3.0)
    assert ratio(100) == pytest.approx(1.0, abs=1e-6)


def test_chances_are_mixed_with_equal_ones() -> None:
    found = chances(torch.tensor([1.0, 0.0, 0.0, 0.0]), 0.2)
    assert found.tolist() == pytest.approx([0.85, 0.05, 0.05, 0.05])
    assert found.sum().item() == pytest.approx(1.0)


def test_each_class_keeps_its_share_of_chances() -> None:
    weight = torch.tensor([1.0, 3.0, 100.0, 0.0, 0.0])
    classes = torch.tensor([0, 0, 1, 2, 2])
    found = chances(weight, 0.1, classes)
    assert torch.bincount(classes, weights=found).tolist() == pytest.approx([0.4, 0.2, 0.4])
    assert (found[1] - 0.02) / (found[0] - 0.02) == pytest.approx(3.0)
    assert found[3] == found[4]


@pytest.mark.parametrize("share", [0.1, 0.34, 0.5, 0.99])
def test_the_hardest_are_those_of_a_sort(share: float) -> None:
    losses = torch.rand(50, generator=generator(1, 0))
    losses[7] = NAN
    found = hardest(losses, share)
    count = round(share * 50)
    assert int(found.sum()) == count
    order = losses.nan_to_num(nan=-1.0).argsort(descending=True)
    assert sorted(found.nonzero()[:, 0].tolist()) == sorted(order[:count].tolist())


def test_the_hardest_of_each_class_are_taken() -> None:
    losses = torch.tensor([1.0, 9.0, 8.0, 7.0, 0.1, 0.2])
    found = hardest(losses, 0.5, torch.tensor([0, 1, 1, 1, 0, 1]))
    assert found.tolist() == [True, True, True, False, False, False]


def test_expectations_without_replacement_are_at_most_one_and_in_proportion() -> None:
    chance = chances(torch.tensor([100.0, 50.0, 3.0, 2.0, 1.0]), 0.0)
    found = expected(chance, 4, replacement=False)
    assert found.tolist() == pytest.approx([1.0, 1.0, 1.0, 2 / 3, 1 / 3])
    assert expected(chance, 4, replacement=True).tolist() == pytest.approx((chance * 4).tolist())


def test_samples_without_any_chance_fill_up_what_is_missing() -> None:
    found = expected(torch.tensor([1.0, 0.0, 0.0]), 2, replacement=False)
    assert found.tolist() == pytest.approx([1.0, 0.5, 0.5])


def counts(expect: Tensor, size: int, epoch: int, classes: Tensor | None = None) -> Tensor:
    found = drawn(expect, size, generator(0, epoch), classes)
    assert len(found) == size
    return torch.bincount(found, minlength=len(expect))


def test_each_sample_comes_as_often_as_expected_up_or_down() -> None:
    expect = torch.tensor([0.0, 0.25, 0.75, 1.0, 2.5, 3.5], dtype=torch.float64)
    found = torch.stack([counts(expect, 8, epoch) for epoch in range(400)])
    assert bool((found >= expect.floor()).all())
    assert bool((found <= expect.ceil()).all())
    assert (found.double().mean(0) - expect).abs().max() < 0.08  # three standard errors


def test_equal_expectations_of_one_are_a_shuffle() -> None:
    found = drawn(torch.ones(100, dtype=torch.float64), 100, generator(0, 0))
    assert sorted(found.tolist()) == list(range(100))
    assert found.tolist() == torch.randperm(100, generator=generator(0, 0)).tolist()


def test_each_class_comes_as_often_as_expected_up_or_down() -> None:
    numbers = generator(2, 0)
    classes = torch.randint(0, 4, (200,), generator=numbers)
    chance = chances(torch.rand(200, generator=numbers), 0.1, classes)
    sizes = torch.bincount(classes) / 200 * 90
    for epoch in range(20):
        found = classes[
            drawn(expected(chance, 90, replacement=True), 90, generator(0, epoch), classes)
        ]
        of_classes = torch.bincount(found)
        assert bool(((of_classes - sizes).abs() < 1 + 1e-9).all())
        assert found.tolist() != sorted(found.tolist())


def test_draws_of_one_sample_are_spread_over_a_large_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_diag.hard.draw._LARGE", 0)
    expect = torch.full((1024,), 2.0, dtype=torch.float64)
    found = drawn(expect, 2048, generator(0, 0))
    first, last = torch.zeros(1024), torch.zeros(1024)
    for place, sample in enumerate(found.tolist()):
        last[sample] = place
    for place, sample in reversed(list(enumerate(found.tolist()))):
        first[sample] = place
    assert bool(((last - first) >= 2048 // 64).all())
    assert torch.bincount(found).tolist() == [2] * 1024


def test_neighbouring_seeds_share_no_epoch() -> None:
    """As seeds that are added to epochs do."""
    found = {generator(seed, epoch).initial_seed() for seed in range(4) for epoch in range(50)}
    assert len(found) == 200


def table(*losses: float) -> tuple[Tensor, Tensor]:
    return torch.tensor(losses), torch.zeros(len(losses), dtype=torch.int32)


def test_a_first_loss_is_taken_as_it_is_and_others_are_averaged() -> None:
    losses, seen_at = table(NAN, 1.0, 5.0)
    left = updated(
        losses, seen_at, torch.tensor([0, 1]), torch.tensor([4.0, 3.0]), 7, smoothing=0.25
    )
    assert losses.tolist() == [4.0, 2.5, 5.0]
    assert seen_at.tolist() == [7, 7, 0]
    assert left == 0


def test_a_sample_that_came_twice_enters_with_its_mean() -> None:
    losses, seen_at = table(NAN, NAN)
    updated(losses, seen_at, torch.tensor([1, 1]), torch.tensor([1.0, 2.0]), 3, smoothing=0.5)
    assert losses[1] == 1.5
    assert losses[0].isnan()


def test_losses_that_are_not_finite_are_left_out_and_counted() -> None:
    losses, seen_at = table(2.0, 3.0, 4.0)
    observed = torch.tensor([NAN, torch.inf, -torch.inf, 6.0])
    left = updated(losses, seen_at, torch.tensor([0, 1, 1, 2]), observed, 1, smoothing=0.0)
    assert losses.tolist() == [2.0, 3.0, 6.0]
    assert left == 3
    assert seen_at.tolist() == [0, 0, 1]


def test_a_sample_that_has_no_other_loss_is_no_longer_new() -> None:
    losses, seen_at = table(NAN, NAN, NAN)
    observed = torch.tensor([NAN, -torch.inf])
    updated(losses, seen_at, torch.tensor([0, 1]), observed, 4, smoothing=0.5)
    assert losses[:2].tolist() == [-torch.inf, -torch.inf]
    assert losses[2].isnan()
    assert seen_at.tolist() == [4, 4, 0]
    updated(losses, seen_at, torch.tensor([0]), torch.tensor([3.0]), 5, smoothing=0.5)
    assert losses[0] == 3.0


def test_the_order_of_what_was_seen_does_not_matter() -> None:
    """Ranks come in another order than one process."""
    numbers = generator(5, 0)
    indices = torch.randint(0, 20, (500,), generator=numbers)
    observed = -torch.rand(500, generator=numbers).log()
    turned = torch.randperm(500, generator=numbers)
    (one, _), (other, _) = tables = table(*[1.0] * 20), table(*[1.0] * 20)
    for (losses, seen_at), order in zip(tables, (torch.arange(500), turned), strict=True):
        updated(losses, seen_at, indices[order], observed[order], 1, smoothing=0.3)
    assert torch.equal(one, other)


def test_nothing_seen_changes_nothing() -> None:
    losses, seen_at = table(1.0, NAN)
    updated(losses, seen_at, torch.zeros(0, dtype=torch.int32), torch.zeros(0), 1, smoothing=0.5)
    assert losses[0] == 1.0
    assert seen_at.tolist() == [0, 0]


def test_the_share_that_an_epoch_rests_on() -> None:
    assert effective_share(torch.ones(8)) == 1.0
    assert effective_share(torch.tensor([8.0, 0, 0, 0, 0, 0, 0, 0])) == 0.125
    assert effective_share(torch.zeros(3)) == 0.0


def test_phases_come_in_turns() -> None:
    how = Drawing(hardest=0.1, hard_epochs=2, mixed_epochs=1, warmup=2)
    assert [epoch for epoch in range(10) if how.is_hard(epoch)] == [3, 4, 6, 7, 9]
    assert not any(Drawing().is_hard(epoch) for epoch in range(10))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "mood"}, "`by` must be 'rank' or 'loss', got 'mood'"),
        ({"temperature": 0}, "`temperature` must be above 0, got 0"),
        ({"temperature": NAN}, "`temperature` must be above 0, got nan"),
        ({"half_life": -1.0}, "`half_life` must be above 0"),
        ({"uniform": 1.5}, "`uniform` must be a share from 0 to 1"),
        ({"hardest": 1.0}, "`hardest` must be a share above 0 and below 1, got 1.0: give 0.25"),
        ({"hard_epochs": 0}, "`hard_epochs` must be a whole number of at least 1"),
        ({"mixed_epochs": 1.5}, "`mixed_epochs` must be a whole number"),
        ({"warmup": 0}, "`warmup` must be a whole number of at least 1"),
    ],
)
def test_what_is_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        Drawing(**options)
