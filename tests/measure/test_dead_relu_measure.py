"""Which units fired, and how long the others have been silent, against a list of samples (W5)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_diag.measure.base import Call, Columns
from lightning_diag.measure.dead_relu import (
    FiredMeasure,
    SilenceCounter,
    dead_fraction,
    unit_peaks,
)


def fired(x: Tensor, unit_dim: int = 1) -> Columns | None:
    return FiredMeasure().before(Call("place", "relu", "relu", unit_dim, x))


def slow_peaks(x: Tensor, unit_dim: int) -> list[float]:
    units = x.movedim(unit_dim, 0).double()
    return [max(unit.flatten().tolist()) for unit in units]


# Peaks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "unit_dim"),
    [
        ((7,), 0),
        ((5, 7), 1),
        ((5, 7), -1),
        ((5, 7), 0),
        ((3, 4, 6), 1),
        ((3, 4, 6), -1),
        ((2, 3, 4, 5), 1),
        ((2, 3, 4, 5), -1),
        ((2, 3, 4, 5, 6), 1),
    ],
)
@pytest.mark.parametrize("layout", ["contiguous", "strided"])
def test_peak_of_each_unit(shape: tuple[int, ...], unit_dim: int, layout: str) -> None:
    x = torch.randn(shape)
    if layout == "strided":
        x = torch.randn(*shape, 2)[..., 0]
        if len(shape) == 4:
            x = x.contiguous(memory_format=torch.channels_last)
    assert unit_peaks(x, unit_dim).tolist() == pytest.approx(slow_peaks(x, unit_dim), rel=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_peaks_of_every_dtype(dtype: torch.dtype) -> None:
    x = torch.randn(5, 7).to(dtype)
    assert unit_peaks(x, 1).tolist() == pytest.approx(slow_peaks(x, 1), rel=1e-7)


def test_a_unit_that_computes_nan_is_not_silent() -> None:
    x = torch.tensor([[math.nan, -math.inf, -1.0], [-1.0, -2.0, -2.0]])
    peaks = unit_peaks(x, 1)
    assert (peaks > 0).tolist() == [True, False, False]
    assert float(peaks[0]) == math.inf


def test_a_unit_at_exactly_zero_is_silent() -> None:
    assert float(dead_fraction(torch.tensor([[0.0, -0.0, 1e-44, -1.0]]))) == 0.75


def test_one_position_is_enough_to_be_alive() -> None:
    x = -torch.ones(4, 3, 5, 5)
    x[2, 1, 4, 0] = 1e-6
    assert float(dead_fraction(x)) == pytest.approx(2 / 3)
    columns = fired(x)
    assert columns is not None
    assert (columns.maxima[0] > 0).tolist() == [False, True, False]
    assert columns.sums.tolist() == [[4.0]]


def test_layouts_that_hold_units_last() -> None:
    x = -torch.ones(2, 6, 3)
    x[:, 5, 2] = 1.0
    columns = fired(x, -1)
    assert columns is not None
    assert (columns.maxima[0] > 0).tolist() == [False, False, True]


def test_inputs_without_samples_or_units_are_left_out() -> None:
    assert fired(torch.ones(0, 3)) is None
    assert fired(torch.ones(3, 0)) is None
    assert fired(torch.tensor(1.0)) is None


def test_a_single_dimension_counts_units_of_one_sample() -> None:
    columns = fired(torch.tensor([-1.0, 2.0]), -1)
    assert columns is not None
    assert columns.sums.tolist() == [[1.0]]
    assert columns.maxima.tolist() == [[-1.0, 2.0]]


# Silence --------------------------------------------------------------------------------------


def test_no_verdict_before_the_window_is_full() -> None:
    counter = SilenceCounter(window=10)
    silent = torch.tensor([False, False])
    assert counter.update("a", 0, 4, silent) == {"window_samples": 4.0}
    assert counter.update("a", 1, 5, silent) == {"window_samples": 9.0}
    assert counter.dead_units("a") == []
    assert counter.update("a", 2, 1, silent) == {
        "fraction": 1.0,
        "window_samples": 10.0,
        "revived_count": 0.0,
        "since_step": 0.0,
    }
    assert counter.dead_units("a") == [0, 1]
    assert counter.dead_units("never seen") == []


def test_sparse_unit_is_not_dead() -> None:
    """P46: sparsity is not death."""
    counter = SilenceCounter(window=100)
    for step in range(200):
        result = counter.update("a", step, 10, torch.tensor([step % 9 == 0, False]))
        if step >= 9:
            assert result["fraction"] == 0.5
            assert counter.dead_units("a") == [1]
    assert result["since_step"] == 0.0


def test_a_unit_that_fires_again_is_revived_once() -> None:
    counter = SilenceCounter(window=4)
    on, off = torch.tensor([True]), torch.tensor([False])
    steps = [counter.update("a", 10 * step, 2, off) for step in range(3)]
    assert steps[-1]["fraction"] == 1.0
    again = counter.update("a", 30, 2, on)
    assert (again["fraction"], again["revived_count"]) == (0.0, 1.0)
    assert "since_step" not in again
    assert counter.update("a", 40, 2, on)["revived_count"] == 0.0
    counter.update("a", 50, 2, off)
    assert counter.update("a", 60, 2, off)["since_step"] == 50.0


def test_a_site_that_changes_its_units_begins_anew() -> None:
    counter = SilenceCounter(window=4)
    counter.update("a", 0, 4, torch.tensor([False]))
    assert counter.update("a", 1, 2, torch.tensor([False, False])) == {"window_samples": 2.0}
    assert counter.update("a", 2, 2, torch.tensor([False, True]))["since_step"] == 1.0


def test_sites_do_not_mix() -> None:
    counter = SilenceCounter(window=2)
    counter.update("a", 0, 2, torch.tensor([False]))
    counter.update("b", 0, 2, torch.tensor([True]))
    assert (counter.dead_units("a"), counter.dead_units("b")) == ([0], [])


def test_samples_are_counted_exactly_whatever_the_default_type() -> None:
    torch.set_default_dtype(torch.float16)
    try:
        counter = SilenceCounter(window=5000)
        for step in range(4999):
            counter.update("a", step, 1, torch.tensor([False]))
        assert counter.dead_units("a") == []
        counter.update("a", 4999, 1, torch.tensor([False]))
        assert counter.dead_units("a") == [0]
    finally:
        torch.set_default_dtype(torch.float32)


def test_windows_beyond_the_integers_of_float32_are_counted_exactly() -> None:
    counter = SilenceCounter(window=2**24 + 1)
    counter.update("a", 0, 2.0**24, torch.tensor([False]))
    assert counter.dead_units("a") == []
    counter.update("a", 1, 1, torch.tensor([False]))
    assert counter.dead_units("a") == [0]


History = list[tuple[int, list[bool]]]


def brute_force(history: History, window: int) -> dict[str, float]:
    """Judge from a list of all samples: (step, which units fired)."""
    samples = [(step, flags) for step, (n, flags) in enumerate(history) for _ in range(n)]
    if len(samples) < window:
        return {"window_samples": float(len(samples))}
    units = range(len(history[0][1]))
    last_fired = {
        u: max((i for i, (_, flags) in enumerate(samples) if flags[u]), default=-1) for u in units
    }
    silence = {u: len(samples) - 1 - last_fired[u] for u in units}
    dead = [u for u in units if silence[u] >= window]
    result = {"fraction": len(dead) / len(units), "window_samples": float(window)}
    if dead:
        result["since_step"] = float(min(samples[last_fired[u] + 1][0] for u in dead))
    return result


@settings(max_examples=150, deadline=None)
@given(
    history=st.lists(
        st.tuples(st.integers(1, 5), st.lists(st.booleans(), min_size=3, max_size=3)),
        min_size=1,
        max_size=25,
    ),
    window=st.integers(1, 12),
    saved=st.integers(0, 25),
)
def test_verdicts_are_those_of_a_list_of_all_samples(
    history: History, window: int, saved: int
) -> None:
    counter = SilenceCounter(window)
    dead_before: Sequence[int] = ()
    for step, (samples, flags) in enumerate(history):
        if step == saved:  # an interruption changes nothing
            state = counter.state_dict()
            counter = SilenceCounter(window)
            counter.load_state_dict(state)
        found = counter.update("a", step, samples, torch.tensor(flags))
        expected = brute_force(history[: step + 1], window)
        revived = found.pop("revived_count", 0.0)
        assert found == pytest.approx(expected)
        assert revived == sum(flags[unit] for unit in dead_before)
        dead_before = counter.dead_units("a")


def test_state_is_a_copy_and_loads_safely(tmp_path: object) -> None:
    counter = SilenceCounter(window=4)
    counter.update("a", 0, 3, torch.tensor([True, False]))
    state = counter.state_dict()
    kept = {name: torch.as_tensor(value).clone() for name, value in state["a"].items()}
    counter.update("a", 1, 3, torch.tensor([False, False]))
    path = f"{tmp_path}/state.pt"
    torch.save(state, path)
    loaded = torch.load(path, weights_only=True)
    assert all(torch.equal(torch.as_tensor(loaded["a"][name]), kept[name]) for name in kept)
    other = SilenceCounter(window=4)
    other.load_state_dict(loaded)
    other.update("a", 1, 3, torch.tensor([False, False]))
    assert other.dead_units("a") == counter.dead_units("a") == [1]
    assert torch.equal(loaded["a"]["silent"], kept["silent"])
