"""Schedules as functions of the step, against numbers worked out by hand and against torch (L4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from lightning_diag.lr.curves import (
    DECAY_SHAPES,
    exponential,
    inverse_sqrt,
    piecewise_constant,
    power,
    warm_restarts,
    wsd,
)

CURVES: dict[str, Callable[[int], float]] = {
    "power": partial(power, timescale=7),
    "exponential": partial(exponential, steps_per_decade=30),
    "piecewise_constant": partial(piecewise_constant, total_steps=60),
    "warm_restarts": partial(warm_restarts, cycle_steps=10, cycle_growth=2, warmup_steps=3),
    "wsd": partial(wsd, total_steps=60, warmup_steps=5),
    "inverse_sqrt": partial(inverse_sqrt, warmup_steps=8),
}

ANY: dict[str, Any] = {"warm_restarts": warm_restarts, "wsd": wsd}
"""Without their types, to be called in ways that these forbid."""


def torchs(make: Callable[[torch.optim.Optimizer], Any], steps: int) -> list[float]:
    """Return the learning rates of one of torch's schedulers, from 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


def test_a_power_falls_as_worked_out_by_hand() -> None:
    assert power(0, timescale=10) == 1
    assert power(10, timescale=10) == 0.5
    assert power(90, timescale=10) == pytest.approx(0.1)
    assert power(30, timescale=10, exponent=0.5) == 0.5
    assert power(10, timescale=10, exponent=3) == 0.125


def test_an_exponential_is_torchs_with_the_gamma_of_a_decade() -> None:
    ours = [exponential(t, steps_per_decade=25) for t in range(101)]
    assert ours[0] == 1
    assert ours[25::25] == pytest.approx([0.1, 0.01, 0.001, 0.0001])
    gamma = 10 ** (-1 / 25)
    assert ours == pytest.approx(torchs(lambda o: lr_scheduler.ExponentialLR(o, gamma), 101))


def test_milestones_are_torchs_at_their_shares_of_the_steps() -> None:
    ours = [piecewise_constant(t, total_steps=64) for t in range(64)]
    assert ours == pytest.approx(torchs(lambda o: lr_scheduler.MultiStepLR(o, [32, 48]), 64))


@pytest.mark.parametrize(
    ("total", "milestone", "step"),
    [
        (100, 0.55, 55),
        (10, 0.7, 7),
        (10, 0.29, 3),
        (10, 0.3, 3),
        (3, 1 / 3, 1),
        (10**6, 0.7, 700_000),
        (5, 0.0, 0),
    ],
)
def test_a_milestone_is_passed_at_the_first_step_behind_it(
    total: int, milestone: float, step: int
) -> None:
    curve = partial(piecewise_constant, total_steps=total, milestones=[milestone], factors=[0.5])
    assert curve(step) == 0.5
    assert step == 0 or curve(step - 1) == 1


def test_a_milestone_at_the_end_is_never_seen_and_factors_may_rise() -> None:
    curve = partial(
        piecewise_constant, total_steps=4, milestones=[0.25, 0.5, 1.0], factors=[0.0, 2.0, 9.0]
    )
    assert [curve(t) for t in range(5)] == [1.0, 0.0, 2.0, 2.0, 9.0]


@pytest.mark.parametrize("growth", [1, 2, 3])
@pytest.mark.parametrize("end", [0.0, 0.1])
def test_warm_restarts_without_warm_up_are_torchs(growth: int, end: float) -> None:
    ours = [
        warm_restarts(t, cycle_steps=7, cycle_growth=growth, end_factor=end) for t in range(200)
    ]
    theirs = torchs(
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 7, growth, eta_min=end), 200
    )
    assert ours == pytest.approx(theirs, abs=1e-12)


@given(
    t=st.integers(0, 5000),
    cycle=st.integers(1, 50),
    growth=st.integers(1, 4),
    warmup=st.integers(0, 49),
)
def test_restarts_are_where_a_walk_from_the_start_puts_them(
    t: int, cycle: int, growth: int, warmup: int
) -> None:
    warmup = min(warmup, cycle - 1)
    begin, length, number = 0, cycle, 0
    while t >= begin + length:
        begin, length, number = begin + length, length * growth, number + 1
    got = warm_restarts(
        t, cycle_steps=cycle, cycle_growth=growth, warmup_steps=warmup, peak_decay=0.5
    )
    if t - begin < warmup:
        expected = 0.5**number * (t - begin) / warmup
    else:
        share = (t - begin - warmup) / (length - warmup)
        expected = 0.5**number * (1 + math.cos(math.pi * share)) / 2
    assert got == pytest.approx(expected, abs=1e-12)


def test_each_cycle_warms_up_or_only_the_first() -> None:
    every = partial(warm_restarts, cycle_steps=6, warmup_steps=2, start_factor=0.5)
    assert [every(t) for t in (0, 1, 2, 6, 7, 8)] == [0.5, 0.75, 1, 0.5, 0.75, 1]
    first = partial(every, warmup="first")
    assert [first(t) for t in (0, 1, 2, 6)] == [0.5, 0.75, 1, 1]
    assert first(9) == pytest.approx(0.5)


def test_peaks_fall_down_to_the_end_and_not_below() -> None:
    curve = partial(warm_restarts, cycle_steps=4, peak_decay=0.5, end_factor=0.2)
    assert [curve(4 * cycle) for cycle in range(5)] == [1, 0.5, 0.25, 0.2, 0.2]
    assert min(map(curve, range(40))) == 0.2


@pytest.mark.parametrize(
    ("shape", "quarter"),
    [
        ("linear", 0.75),
        ("cosine", (1 + math.sqrt(0.5)) / 2),
        ("sqrt", 0.5),
        ("square", 15 / 16),
        ("exponential", 0.1),
    ],
)
def test_a_decay_is_its_shape(shape: Any, quarter: float) -> None:
    end = 1e-4 if shape == "exponential" else 0.0
    curve = partial(wsd, total_steps=100, decay_fraction=0.4, shape=shape, end_factor=end)
    assert [curve(t) for t in (0, 59, 60, 100, 1000)] == pytest.approx([1, 1, 1, end, end])
    assert curve(70) == pytest.approx(quarter)
    values = [curve(t) for t in range(60, 101)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("shape", [shape for shape in DECAY_SHAPES if shape != "exponential"])
def test_a_decay_to_an_end_is_scaled_to_what_is_above_it(shape: Any) -> None:
    to_zero = partial(wsd, total_steps=50, shape=shape)
    to_end = partial(to_zero, end_factor=0.1)
    for t in range(60):
        assert to_end(t) == pytest.approx(0.1 + 0.9 * to_zero(t))


def test_all_of_the_training_may_be_warm_up_and_decay_or_none() -> None:
    triangle = partial(wsd, total_steps=10, warmup_steps=5, decay_fraction=0.5, shape="linear")
    assert [triangle(t) for t in (0, 1, 5, 6, 10)] == pytest.approx([0, 0.2, 1, 0.8, 0])
    flat = partial(wsd, total_steps=10, decay_fraction=0.0)
    assert [flat(t) for t in (0, 9, 10)] == [1, 1, 0]


def test_the_inverse_square_root_is_that_of_the_transformer() -> None:
    """Vaswani et al., equation 3: d^-0.5 min(t^-0.5, t W^-1.5), over its peak at t = W."""
    warmup, width = 400, 512
    peak = width**-0.5 * warmup**-0.5
    for t in range(1, 5000, 37):
        theirs = width**-0.5 * min(t**-0.5, t * warmup**-1.5)
        assert inverse_sqrt(t, warmup_steps=warmup) == pytest.approx(theirs / peak)


def test_a_timescale_sets_how_fast_the_inverse_square_root_falls() -> None:
    curve = partial(inverse_sqrt, warmup_steps=100, timescale=1000)
    assert [curve(t) for t in (0, 50, 100)] == [0, 0.5, 1]
    assert curve(1100) == pytest.approx(math.sqrt(0.5))
    assert curve(3100) == pytest.approx(0.5)
    assert inverse_sqrt(0, warmup_steps=0, timescale=10) == 1


@pytest.mark.parametrize("name", CURVES)
def test_a_curve_starts_within_and_stays_between_0_and_1(name: str) -> None:
    values = [CURVES[name](t) for t in range(200)]
    assert all(0 <= value <= 1 for value in values)
    assert max(values) == 1


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        (partial(power, timescale=0), "`timescale` must be above 0 steps, got 0."),
        (partial(power, timescale=math.nan), "`timescale` must be above 0 steps, got nan."),
        (partial(power, timescale=1, exponent=-1), "`exponent` must be above 0, got -1."),
        (partial(exponential, steps_per_decade=-5), "`steps_per_decade` must be above 0 steps"),
        (partial(piecewise_constant, total_steps=math.inf), "limit the training"),
        (partial(piecewise_constant, total_steps=0), "`total_steps` must be a whole number"),
        (partial(piecewise_constant, total_steps=9, milestones=[30, 60]), "shares of the steps"),
        (partial(piecewise_constant, total_steps=9, milestones=[0.6, 0.5]), "above the one before"),
        (partial(piecewise_constant, total_steps=9, factors=[0.1]), "as many as `milestones`, 2"),
        (partial(piecewise_constant, total_steps=9, factors=[0.1, -1]), "`factors` must be at"),
        (partial(warm_restarts, cycle_steps=0), "`cycle_steps` must be a whole number of at least"),
        (
            partial(ANY["warm_restarts"], cycle_steps=5, cycle_growth=1.5),
            "`cycle_growth` must be",
        ),
        (partial(warm_restarts, cycle_steps=5, warmup_steps=5), "fewer than the 5 steps"),
        (partial(warm_restarts, cycle_steps=5, peak_decay=0), "`peak_decay` must be above 0"),
        (partial(warm_restarts, cycle_steps=5, end_factor=2), "`end_factor` must be from 0 to 1"),
        (
            partial(ANY["warm_restarts"], cycle_steps=5, warmup="no"),
            "every, first, got 'no'",
        ),
        (
            partial(ANY["wsd"], total_steps=10, shape="cubic"),
            "`shape` must be one of linear",
        ),
        (partial(wsd, total_steps=10, shape="exponential"), "`end_factor` must be above 0"),
        (partial(wsd, total_steps=10, warmup_steps=9), "at most 8, where the decay begins, got 9"),
        (partial(wsd, total_steps=10, decay_fraction=20), "`decay_fraction` must be from 0 to 1"),
        (partial(inverse_sqrt, warmup_steps=0), "`timescale` must be given"),
        (partial(inverse_sqrt, warmup_steps=-1), "`warmup_steps` must be a whole number of at"),
        (partial(inverse_sqrt, warmup_steps=5, start_factor=-1), "`start_factor` must be from 0"),
    ],
)
def test_a_wrong_argument_is_one_sentence_that_names_it(
    curve: Callable[[int], float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        curve(0)


def test_curves_need_neither_torch_nor_lightning(run_python: Callable[..., str]) -> None:
    code = """
import sys
for name in ("torch", "lightning", "pytorch_lightning"):
    sys.modules[name] = None
from lightning_diag.lr.curves import power
print(power(3, timescale=1))
"""
    assert run_python(code) == "0.25\n"
