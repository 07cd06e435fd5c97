"""The real change of weights, against float64 (W6, P37)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lightning_diag.measure.update import UpdateMeasure

MEASURE = UpdateMeasure()


def numbers(before: Tensor, after: Tensor) -> dict[str, float]:
    columns = MEASURE.observe([before], [after])
    found = MEASURE.summarise(["w"], columns.sums, columns.maxima)
    return {output: values["w"] for output, values in found.items() if values}


@pytest.mark.parametrize("size", [1, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_ratio_of_real_change_to_weights(dtype: torch.dtype, size: int) -> None:
    before = torch.randn(size).to(dtype)
    after = (before.float() * 1.1 + 0.01).to(dtype)
    change = float((after.double() - before.double()).norm())
    weights = float(before.double().norm())
    found = numbers(before, after)
    assert found["norm"] == pytest.approx(change, rel=1e-5)
    assert found["weight_norm"] == pytest.approx(weights, rel=1e-5)
    assert found["ratio"] == pytest.approx(change / weights, rel=1e-5)


def test_weights_that_were_all_zero_have_no_ratio() -> None:
    assert numbers(torch.zeros(4), torch.full((4,), 0.5)) == {"norm": 1.0, "weight_norm": 0.0}


def test_no_change_is_a_ratio_of_zero() -> None:
    weights = torch.randn(9)
    assert numbers(weights, weights.clone())["ratio"] == 0.0


def test_a_change_below_the_resolution_of_bfloat16_is_no_change() -> None:
    """What the weights did counts, not what the optimizer meant to do."""
    before = torch.ones(4, dtype=torch.bfloat16)
    after = before - 1e-4
    assert numbers(before, after)["norm"] == 0.0


def test_a_tiny_change_of_large_weights_is_seen() -> None:
    before = torch.full((1000,), 100.0)
    after = before + 1e-4
    expected = float((after.double() - before.double()).norm() / before.double().norm())
    assert expected > 0
    assert numbers(before, after)["ratio"] == pytest.approx(expected, rel=1e-5, abs=0)


def test_complex_weights() -> None:
    found = numbers(torch.tensor([3 + 4j]), torch.tensor([3 + 5j]))
    assert found == {"ratio": pytest.approx(0.2), "norm": 1.0, "weight_norm": 5.0}


def test_empty_weights_have_no_ratio() -> None:
    assert numbers(torch.empty(0, 3), torch.empty(0, 3)) == {"norm": 0.0, "weight_norm": 0.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_weight_shows_in_every_number(bad: float) -> None:
    """P13: what is not finite is said, and not taken for an absent value."""
    found = numbers(torch.tensor([bad, 1.0]), torch.tensor([bad, 1.1]))
    assert found.keys() == {"ratio", "norm", "weight_norm"}
    assert not any(math.isfinite(value) for value in found.values())


def test_nothing_is_changed_by_looking() -> None:
    before, after = torch.randn(5000), torch.randn(5000)
    kept = before.clone(), after.clone()
    MEASURE.observe([before], [after])
    assert torch.equal(before, kept[0])
    assert torch.equal(after, kept[1])


def test_replicas_cancel() -> None:
    columns = MEASURE.observe([torch.tensor([3.0, 4.0])], [torch.tensor([3.0, 4.5])])
    one = MEASURE.summarise(["w"], columns.sums, columns.maxima)
    assert MEASURE.summarise(["w"], columns.sums * 4, columns.maxima) == one


def test_the_ratio_of_a_real_optimizer_step() -> None:
    """SGD with decay moves a weight by lr * (gradient + decay * weight)."""
    layer = nn.Linear(3, 2)
    before = [p.detach().clone() for p in layer.parameters()]
    layer(torch.randn(4, 3)).square().sum().backward()
    expected = [
        float((0.1 * (p.grad + 0.5 * p)).detach().norm() / p.detach().norm())
        for p in layer.parameters()
        if p.grad is not None
    ]
    torch.optim.SGD(layer.parameters(), lr=0.1, weight_decay=0.5).step()
    columns = MEASURE.observe(before, list(layer.parameters()))
    found = MEASURE.summarise(["w", "b"], columns.sums, columns.maxima)
    assert list(found["ratio"].values()) == pytest.approx(expected, rel=1e-5)
