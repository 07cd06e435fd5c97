"""The share of a loss that few samples carry, against sorted losses (H1)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_diag.measure.top_share import octaves, top_share


def by_sorting(losses: Tensor, share: float = 0.1) -> float:
    ordered: list[float] = losses.double().sort(descending=True).values.tolist()
    wanted, total = share * len(ordered), 0.0
    for i, loss in enumerate(ordered):
        total += loss * min(1.0, max(0.0, wanted - i))
    return total / sum(ordered)


def skewed(samples: int, power: float, seed: int = 0) -> Tensor:
    return torch.rand(samples, generator=torch.Generator().manual_seed(seed)) ** power


@pytest.mark.parametrize("power", [1.0, 4.0, 12.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_share_is_that_of_sorted_losses_but_for_a_twentieth(power: float, scale: float) -> None:
    losses = skewed(500, power) * scale
    assert float(top_share(octaves(losses))) == pytest.approx(by_sorting(losses), rel=0.05)


def test_micro_batches_and_ranks_add_up_to_the_whole() -> None:
    """P10: unlike shares of their own, whose mean depends on how they are split."""
    losses = skewed(96, 6.0)
    whole = top_share(octaves(losses))
    parts = sum((octaves(part) for part in losses.split([7, 50, 39])), torch.zeros(192))
    assert float(top_share(parts)) == pytest.approx(float(whole), rel=1e-6)


def test_equal_losses_carry_their_number_and_one_alone_carries_all() -> None:
    assert float(top_share(octaves(torch.full((40,), 0.7)))) == pytest.approx(0.1)
    one = torch.cat([torch.tensor([3.0]), torch.zeros(9)])
    assert float(top_share(octaves(one))) == pytest.approx(1.0)


def test_what_does_not_count_is_left_out_and_nothing_is_no_share() -> None:
    losses = skewed(50, 3.0)
    odd = torch.tensor([math.nan, math.inf, -math.inf, -1.0])
    assert torch.equal(octaves(torch.cat([losses, odd])), octaves(losses))
    assert math.isnan(float(top_share(octaves(torch.zeros(4)))))


def test_many_samples_are_looked_at_in_part() -> None:
    losses = skewed(200_000, 4.0)
    assert float(octaves(losses)[:64].sum()) <= 16_384
    assert float(top_share(octaves(losses))) == pytest.approx(by_sorting(losses), rel=0.05)
