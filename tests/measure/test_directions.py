"""How alike the directions of samples are, against a slow reference (H7)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from lightning_diag.measure.base import Call, Columns
from lightning_diag.measure.directions import DirectionMeasure

PLACE = "normalize#0"


def look(x: Tensor, dim: int = -1) -> Columns | None:
    """Look at a call of `normalize` on what a network computed."""
    computed = x.requires_grad_() * 1
    call = Call(PLACE, "normalize", "direction", 1, computed)
    call.output = functional.normalize(computed, dim=dim)
    with torch.no_grad():
        return DirectionMeasure().after(call)


def cosine(*looks: Columns | None) -> float | None:
    """Return the mean cosine of the looks of one step."""
    first, *others = looks
    assert first is not None
    for other in others:
        assert other is not None
        first = first.joined(other)
    measure = DirectionMeasure()
    return measure.summarise([PLACE], first.sums, first.maxima)["mean_cosine"].get(PLACE)


def slow(x: Tensor) -> list[float]:
    """Return the cosines of all pairs."""
    rows = x.detach().double()
    return [
        float(functional.cosine_similarity(rows[i], rows[j], dim=0))
        for i in range(len(rows))
        for j in range(len(rows))
        if i != j
    ]


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.integers(1, 6), st.integers(0, 10**6))
def test_it_is_the_mean_over_all_pairs_of_a_micro_batch(n: int, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    one, two = torch.randn(n, width) + 1, torch.randn(n + 1, width)
    assert cosine(look(one)) == pytest.approx(sum(slow(one)) / (n * (n - 1)), abs=1e-5)
    pairs = slow(one) + slow(two)
    assert cosine(look(one), look(two)) == pytest.approx(sum(pairs) / len(pairs), abs=1e-5)


def test_of_a_large_batch_256_samples_are_compared() -> None:
    x = torch.ones(1000, 3)
    columns = look(x)
    assert columns is not None
    assert columns.sums[0, 1] == 250 * 249
    assert cosine(columns) == pytest.approx(1.0)


def test_sixteen_bits_are_no_hindrance() -> None:
    x = torch.randn(64, 32) + 0.5
    full, half = cosine(look(x)), cosine(look(x.detach().bfloat16()))
    assert half == pytest.approx(full, abs=0.02)


@pytest.mark.parametrize("x", [torch.randn(3, 4, 5), torch.randn(4), torch.randn(1, 4)])
def test_what_is_not_one_row_a_sample_is_not_observed(x: Tensor) -> None:
    assert look(x) is None


def test_columns_of_length_one_and_rows_of_zeros_are_not_observed() -> None:
    """P20: absent, not 0."""
    assert cosine(look(torch.randn(6, 3), dim=0)) is None
    assert cosine(look(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))) is None


def test_parameters_are_not_samples() -> None:
    weight = torch.nn.Parameter(torch.ones(4, 3))
    call = Call(PLACE, "normalize", "direction", 1, weight, functional.normalize(weight))
    assert DirectionMeasure().after(call) is None
