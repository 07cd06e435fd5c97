"""Histograms of gradients and weights: the same on every rank, and of few elements."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_diag.measure.spreads import BINS, Spreads, counts, norm_of, spread_over
from lightning_diag.measure.tally import Joined, Key, Tally


def slow(values: list[float], end: float) -> list[float]:
    """Count one by one."""
    bins = [0.0] * BINS
    for value in values:
        if not math.isnan(value):
            place = (value + end) / (2 * end) * BINS
            bins[int(min(max(place, 0), BINS - 1))] += 1
    return bins


NUMBERS = st.one_of(
    # between the edges of bins, where rounding decides nothing
    st.integers(-256, 256).map(lambda n: n / 64 + 1 / 128),
    st.sampled_from([math.nan, math.inf, -math.inf]),
)


@given(st.lists(NUMBERS, min_size=1, max_size=60), st.sampled_from([0.5, 1.0, 2.0]))
def test_counts_are_those_of_a_slow_reference(values: list[float], end: float) -> None:
    found = counts([torch.tensor(values)], [end])
    assert found.sums[0].tolist() == [*slow(values, end), 1.0]
    assert found.maxima.tolist() == [[end]]


@pytest.mark.parametrize("shape", [(700, 300), (64, 3, 11, 11), (2049,)])
@pytest.mark.parametrize("kind", ["plain", "bf16", "transposed", "channels_last"])
def test_of_a_large_tensor_a_fair_share_is_counted(shape: tuple[int, ...], kind: str) -> None:
    x = torch.randn(shape)
    if kind == "bf16":
        x = x.bfloat16()
    elif kind == "transposed" and len(shape) == 2:
        x = x.t()
    elif kind == "channels_last" and len(shape) == 4:
        x = x.to(memory_format=torch.channels_last)
    bins = counts([x], [4.0]).sums[0, :-1]
    assert bins.sum() == 2048
    truth = torch.histc(x.float(), BINS, -4, 4) / x.numel()
    assert (bins / 2048 - truth).abs().max() < 0.03


def test_tensors_of_unlike_sizes_do_not_mix() -> None:
    small, large = torch.full((3,), 0.9), torch.full((5000,), -0.9)
    found = counts([small, large], [1.0, 1.0]).sums[:, :-1]
    assert found[0].nonzero().flatten().tolist() == [30]
    assert found[1].nonzero().flatten().tolist() == [1]
    assert found.sum(1).tolist() == [3, 2048]


def test_a_tensor_within_another_is_read_where_it_lies() -> None:
    whole = torch.zeros(10, 4096)
    whole[4] = 1.0
    assert counts([whole[4]], [2.0]).sums[0, 24] == 2048


def test_looking_changes_nothing() -> None:
    x = torch.randn(100, 100, requires_grad=True)
    before, state = x.detach().clone(), torch.get_rng_state()
    counts([x], [1.0])
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)


@given(st.floats(0.1, 10))
def test_the_norm_can_be_read_from_a_histogram(scale: float) -> None:
    x = torch.randn(2000, generator=torch.Generator().manual_seed(1)) * scale
    end = 4 * scale
    bins = counts([x], [end]).sums[0, :-1].tolist()
    assert norm_of([-end, end, *bins], 8000) == pytest.approx(2 * float(x.norm()), rel=0.05)


def test_a_range_that_has_become_too_narrow_grows_with_each_histogram() -> None:
    x = torch.randn(4000) * 50
    end = 1.0
    for _ in range(6):
        bins = counts([x], [end]).sums[0, :-1].tolist()
        end = 4 * norm_of([-end, end, *bins], 1)
    assert 150 < end < 250


@given(st.integers(1, 300))
def test_those_chosen_are_spread_over_the_models_depth(n: int) -> None:
    names = [f"layer{i}" for i in range(n)]
    kept = spread_over(names)
    assert len(kept) == len(set(kept)) == min(n, 8)
    assert (kept[0], kept[-1]) == (names[0], names[-1])


# --- over time and ranks ---


def look(spreads: Spreads, x: Tensor | None, ranks: int = 1) -> dict[str, list[float]]:
    """Take one look at the same tensor on each rank."""
    tally = Tally(1, torch.device("cpu"))
    spreads.observe(0, ("w",), [x], tally)
    joined = tally.join({}).wait()
    columns = {Key(*key): type(c)(c.sums * ranks, c.maxima) for key, c in joined.columns.items()}
    return spreads.digest(Joined(columns, {}))


def ready(elements: int = 100, norm: float = 10.0) -> Spreads:
    spreads = Spreads()
    spreads.prepare({"w": elements}, "0:")
    spreads.expect({"w": norm})
    return spreads


def test_a_histogram_comes_with_the_first_known_range_and_then_at_every_sixteenth_look() -> None:
    spreads = Spreads()
    spreads.prepare({"w": 100}, "0:")
    x = torch.randn(100)
    taken = []
    for i in range(40):
        taken += [i] if look(spreads, x) else []
        spreads.expect({"w": 10.0})
    assert taken == [1, 17, 33]


def test_replicas_on_two_ranks_count_once() -> None:
    x = torch.randn(100)
    assert look(ready(), x, ranks=2) == look(ready(), x, ranks=1)


def test_the_range_is_four_root_mean_squares_to_each_side() -> None:
    (found,) = look(ready(elements=100, norm=10.0), torch.zeros(100)).values()
    assert found[:2] == [-4.0, 4.0]
    assert (sum(found[2:]), found[2 + BINS // 2]) == (100, 100)


@pytest.mark.parametrize("norm", [0.0, math.nan, math.inf])
def test_without_a_range_there_is_no_histogram(norm: float) -> None:
    assert look(ready(norm=norm), torch.randn(100)) == {}


@pytest.mark.parametrize(
    "x",
    [None, torch.zeros(0), torch.eye(3).to_sparse(), torch.zeros(3, dtype=torch.complex64)],
    ids=["missing", "empty", "sparse", "complex"],
)
def test_what_cannot_be_counted_is_absent(x: Tensor | None) -> None:
    assert look(ready(), x) == {}
