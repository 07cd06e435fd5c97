"""Which samples are chosen, against what is obvious and slow."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_diag.hard.ranking import choose

LOSSES = st.lists(
    st.floats(0, 100, width=32) | st.just(math.nan) | st.just(-math.inf) | st.just(math.inf),
    min_size=1,
    max_size=20,
)


def drawn(losses: list[float], number: int, selection: str, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return choose(torch.tensor(losses), number, selection, generator).tolist()  # type: ignore[arg-type]


@given(losses=LOSSES, share=st.floats(0.01, 1), seed=st.integers(0, 9))
def test_the_hardest_have_the_highest_losses(losses: list[float], share: float, seed: int) -> None:
    """P28: NaN and what does not count come last."""
    number = math.ceil(share * len(losses))
    known = [-math.inf if math.isnan(loss) else loss for loss in losses]
    found = drawn(losses, number, "hardest", seed)
    assert found == sorted(set(found))
    assert sorted(known)[-number:] == sorted(known[i] for i in found)


@given(losses=LOSSES, share=st.floats(0.01, 1), seed=st.integers(0, 9))
def test_what_has_no_loss_is_drawn_only_for_want_of_others(
    losses: list[float], share: float, seed: int
) -> None:
    number = math.ceil(share * len(losses))
    found = drawn(losses, number, "sampled", seed)
    assert len(set(found)) == number
    counts = [i for i, loss in enumerate(losses) if loss >= 0]
    assert len(set(found) & set(counts)) == min(number, len(counts))


def test_equal_losses_are_drawn_among() -> None:
    seen = {tuple(drawn([1.0] * 4, 2, "hardest", seed)) for seed in range(60)}
    assert len(seen) == 6


def test_harder_samples_are_drawn_more_often_and_easy_ones_sometimes() -> None:
    """By rank alone: the losses themselves may be of any size."""
    losses = [10.0**-i for i in range(10)]
    counts = [0] * 10
    for seed in range(600):
        for i in drawn(losses, 5, "sampled", seed):
            counts[i] += 1
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 400
    assert counts[-1] > 10


def test_one_of_many_is_drawn_by_the_chances_that_are_promised() -> None:
    """With weights r and one draw of two samples, chances are 1/4 and 3/4."""
    hard = sum(drawn([0.5, 2.0], 1, "sampled", seed) == [1] for seed in range(1000))
    assert abs(hard / 1000 - 0.75) < 0.04


def test_any_sample_is_drawn_at_random() -> None:
    counts = [0] * 4
    for seed in range(400):
        for i in drawn([9.0, 1.0, math.nan, 0.0], 1, "random", seed):
            counts[i] += 1
    assert min(counts) > 70
