"""Factors of warm-up and batch size are what their papers say (L2, L3)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_diag.lr.factors import (
    WARMUP_SHAPES,
    best_gain,
    ramp,
    scaling_factor,
    settling_passes,
    untuned_steps,
    warmup_factor,
    warmup_momentum,
)
from lightning_diag.lr.optimizers import family, is_adam

steps = st.integers(1, 10_000)
starts = st.floats(0.001, 1.0)


@given(steps, starts, st.sampled_from(WARMUP_SHAPES), st.integers(0, 50))
def test_a_warmup_starts_at_its_start_ends_at_one_and_never_falls(
    w: int, start: float, shape: Any, hold: int
) -> None:
    def factor(t: int) -> float:
        return warmup_factor(t, steps=w, start_factor=start, shape=shape, hold=hold)

    assert factor(0) == factor(hold) == start
    assert factor(hold + w) == factor(hold + w + 1) == 1.0
    values = [factor(t) for t in range(0, hold + w + 1, max(1, w // 20))]
    assert all(b >= a - 1e-12 for a, b in pairwise(values))
    assert all(start - 1e-12 <= value <= 1 for value in values)


@given(steps, starts, st.integers(0, 20_000))
def test_the_linear_warmup_is_its_closed_form(w: int, start: float, t: int) -> None:
    expected = start + (1 - start) * min(1, t / w)
    assert warmup_factor(t, steps=w, start_factor=start) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("linear", [0.25, 0.4375, 0.625, 0.8125, 1.0]),
        ("cosine", [0.25, 0.25 + 0.75 * (1 - math.cos(math.pi / 4)) / 2, 0.625, 0.8902, 1.0]),
        ("exponential", [0.25, 0.25**0.75, 0.5, 0.25**0.25, 1.0]),
        ("constant", [0.25, 0.25, 0.25, 0.25, 1.0]),
    ],
)
def test_shapes_are_what_is_worked_out_by_hand(shape: Any, expected: list[float]) -> None:
    found = [warmup_factor(t, steps=4, start_factor=0.25, shape=shape) for t in range(5)]
    assert found == pytest.approx(expected, abs=1e-4)


def test_untuned_warmup_is_within_one_part_in_w_of_the_paper() -> None:
    """Ma and Yarats 2019, equation 6: step n, from 1, with min(1, (1 - beta2) / 2 * n)."""
    for beta2 in (0.9, 0.95, 0.98, 0.99, 0.999):
        w = untuned_steps(beta2)
        for n in range(1, w + 2):
            paper = min(1.0, (1 - beta2) / 2 * n)
            assert abs(warmup_factor(n - 1, steps=w, start_factor=1 / w) - paper) <= 1 / w


def test_momentum_goes_in_a_straight_line_and_stays_while_held() -> None:
    found = [warmup_momentum(t, steps=2, start=0.5, end=0.9, hold=1) for t in range(5)]
    assert found == pytest.approx([0.5, 0.5, 0.7, 0.9, 0.9])


@pytest.mark.parametrize("momentum", [0.01, 0.1, 0.5, 0.95, 1.0])
def test_running_statistics_have_settled_after_so_many_passes(momentum: float) -> None:
    norm = nn.BatchNorm1d(1, momentum=momentum)
    norm.running_mean = torch.ones(1)
    passes = settling_passes(momentum)
    kept = []
    for _ in range(passes):
        norm(torch.tensor([[-1.0], [1.0]]))
        assert isinstance(norm.running_mean, Tensor)
        kept.append(norm.running_mean.item())
    assert kept[-1] <= 0.01
    assert passes == 1 or kept[-2] > 0.01


def test_rules_scale_by_the_ratio_and_by_its_root() -> None:
    assert scaling_factor(8192, 256, "linear") == 32.0
    assert scaling_factor(8192, 512, "sqrt") == 4.0
    with pytest.raises(ValueError, match="`rule` must be one of linear, sqrt, got 'auto'"):
        scaling_factor(8192, 512, "auto")


def test_a_ramp_goes_up_gradually_and_down_at_once() -> None:
    up = [ramp(t, since=2, steps=4, start=2.0, target=4.0) for t in (2, 3, 4, 6, 7)]
    assert up == [2.0, 2.5, 3.0, 4.0, 4.0]
    assert ramp(2, since=2, steps=4, start=4.0, target=2.0) == 2.0
    assert ramp(2, since=2, steps=0, start=1.0, target=4.0) == 4.0


def test_far_below_the_critical_size_the_best_rate_is_linear_and_far_above_it_stays() -> None:
    assert best_gain(1024, 256, 1e9) == pytest.approx(4.0, rel=1e-4)
    assert best_gain(1024, 256, 1.0) == pytest.approx(1.0, abs=0.01)


class MyLamb(torch.optim.Optimizer):
    """Stands for what other packages have."""


class Lion(torch.optim.Optimizer):
    """Stands for what nobody has a rule for."""


class Mine(torch.optim.Adam):
    """Is Adam under another name."""


@pytest.mark.parametrize(
    ("cls", "kind", "adam"),
    [
        (torch.optim.SGD, "plain", False),
        (torch.optim.Adam, "adaptive", True),
        (torch.optim.NAdam, "adaptive", True),
        (Mine, "adaptive", True),
        (MyLamb, "adaptive", True),
        (torch.optim.RMSprop, "adaptive", False),
        (torch.optim.Adagrad, "adaptive", False),
        (torch.optim.Rprop, None, False),
        (Lion, None, False),
    ],
)
def test_families_are_known_by_name(cls: Any, kind: str | None, adam: bool) -> None:
    optimizer = cls.__new__(cls)
    assert (family(optimizer), is_adam(optimizer)) == (kind, adam)


def test_sgd_needs_no_momentum_correction_when_its_rate_changes() -> None:
    """Goyal et al. 2017, section 3.

    With the rate inside of the velocity (their equation 10) it must be corrected by the ratio of
    the rates; torch has it outside (equation 9), which is the same without any correction.
    """
    rates = [0.1 * warmup_factor(t, steps=5, start_factor=0.1) for t in range(10)]
    weight = nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64))
    other = weight.detach().clone()
    sgd = torch.optim.SGD([weight], lr=rates[0], momentum=0.9)
    velocity, uncorrected = torch.zeros_like(other), torch.zeros_like(other)
    third = other.clone()
    for t, rate in enumerate(rates):
        sgd.param_groups[0]["lr"] = rate
        weight.grad = 2 * weight.detach()
        sgd.step()
        correction = rate / rates[t - 1] if t else 1.0
        velocity = 0.9 * correction * velocity + rate * 2 * other
        other = other - velocity
        uncorrected = 0.9 * uncorrected + rate * 2 * third
        third = third - uncorrected
    assert weight.tolist() == pytest.approx(other.tolist(), rel=1e-12)
    assert weight.tolist() != pytest.approx(third.tolist(), rel=1e-2)
