"""Level, spread, saturation and variance gain of calls, against float64 (W3, W4, W7, W8)."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lightning_diag.measure.activation import (
    SATURATION,
    OutputMeasure,
    SaturationMeasure,
    VarianceGainMeasure,
)
from lightning_diag.measure.base import Call, CallMeasure, Columns


def called(function: str, kind: str, x: Tensor, output: Tensor | None, unit_dim: int = 1) -> Call:
    return Call("place", function, kind, unit_dim, x, output)


def summary(measure: CallMeasure, columns: Columns | None) -> dict[str, float]:
    assert columns is not None
    found = measure.summarise(["place"], columns.sums, columns.maxima)
    return {output: values["place"] for output, values in found.items() if values}


def output_of(y: Tensor) -> dict[str, float]:
    measure = OutputMeasure()
    return summary(measure, measure.after(called("relu", "relu", y, y)))


def saturated(function: str, kind: str, x: Tensor) -> float:
    measure = SaturationMeasure()
    return summary(measure, measure.before(called(function, kind, x, None)))["saturated_fraction"]


def peaked(function: str, output: Tensor, unit_dim: int = 1) -> Columns | None:
    return SaturationMeasure().after(called(function, "softmax", output, output, unit_dim))


# Outputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 3, 40, 41), ()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_mean_spread_peak_and_zeros_of_an_output(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    y = torch.randn(shape).clamp(min=-0.3).to(dtype)
    wide = y.double()
    assert output_of(y) == {
        "mean": pytest.approx(float(wide.mean()), rel=1e-5, abs=1e-6),
        "std": pytest.approx(float(wide.std(correction=0)), rel=1e-5, abs=1e-7),
        "max": pytest.approx(float(wide.abs().max())),
        "zero_fraction": pytest.approx(float((wide == 0).double().mean())),
        "nonfinite_count": 0.0,
    }


def test_a_constant_output_has_no_spread() -> None:
    for value in (0.0, 0.1, -7.3, 1e6):
        assert output_of(torch.full((33, 65), value))["std"] == pytest.approx(0.0, abs=1e-6)


def test_bad_values_of_an_output_are_counted() -> None:
    found = output_of(torch.tensor([[math.nan, math.inf, 0.0, 1.0]]))
    assert (found["nonfinite_count"], found["zero_fraction"]) == (2.0, 0.25)
    assert found["max"] == math.inf
    assert not math.isfinite(found["mean"])


def test_a_complex_output_counts_real_and_imaginary_parts() -> None:
    found = output_of(torch.tensor([3 + 0j, -5j]))
    assert (found["mean"], found["max"], found["zero_fraction"]) == (-0.5, 5.0, 0.5)


def test_empty_outputs_are_not_observed() -> None:
    assert OutputMeasure().after(called("relu", "relu", torch.ones(1), torch.ones(0, 3))) is None
    assert OutputMeasure().after(called("relu", "relu", torch.ones(1), None)) is None


# Saturation -----------------------------------------------------------------------------------

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softsign": functional.softsign,
    "hardtanh": functional.hardtanh,
    "hardsigmoid": functional.hardsigmoid,
    "relu6": functional.relu6,
    "hardswish": functional.hardswish,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "mish": functional.mish,
}


def slopes(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(leaf).sum(), leaf)
    return slope.abs()


def test_every_bound_belongs_to_a_function() -> None:
    assert FUNCTIONS.keys() == SATURATION.keys()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_beyond_its_bounds_a_function_is_flat(name: str) -> None:
    low, high = SATURATION[name]
    x = torch.linspace(-40, 40, 16_001, dtype=torch.float64)
    slope = slopes(FUNCTIONS[name], x)
    flat = (x < low) | (x > high)
    assert bool(flat.any())
    assert float(slope[flat].max()) < 0.1 * float(slope.max())
    assert float(slope[~flat].max()) == float(slope.max())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_saturated_share_is_that_of_a_slow_count(name: str) -> None:
    low, high = SATURATION[name]
    x = torch.randn(4, 5, 6) * 8
    expected = sum(value <= low or value >= high for value in x.flatten().tolist()) / x.numel()
    assert 0 < expected < 1
    assert saturated(name, "hard", x) == pytest.approx(expected)


def test_sigmoid_is_flat_from_minus_four_to_four_on() -> None:
    """W3 names these bounds."""
    x = torch.tensor([[-5.0, -4.0, -3.9, 0.0, 3.9, 4.0, 5.0, 0.1]])
    assert saturated("sigmoid", "sigmoid", x) == 0.5


def test_infinite_inputs_are_saturated_and_nan_is_not() -> None:
    x = torch.tensor([math.inf, -math.inf, math.nan, 0.0])
    assert saturated("tanh", "tanh", x) == 0.5
    assert saturated("gelu", "smooth", x) == 0.25


@pytest.mark.parametrize("function", ["softplus", "logsigmoid", "softmax", "hardtanh_like"])
def test_functions_without_bounds_have_no_saturation(function: str) -> None:
    call = called(function, "smooth", torch.randn(3), None)
    assert SaturationMeasure().before(call) is None


def test_a_softmax_is_saturated_where_one_class_takes_all() -> None:
    measure = SaturationMeasure()
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.1, 0.2], [0.0, 0.0, 20.0], [3.0, 0.0, 0.0]])
    for function, output in (
        ("softmax", logits.softmax(1)),
        ("log_softmax", logits.log_softmax(1)),
    ):
        assert summary(measure, peaked(function, output)) == {"saturated_fraction": 0.5}


def test_a_softmax_is_looked_at_along_its_own_dimension() -> None:
    output = (torch.randn(2, 5, 3, 4) * 10).softmax(1)
    expected = (output > 0.99).any(1).double().mean()
    assert 0 < float(expected) < 1
    for dim in (1, -3):
        found = summary(SaturationMeasure(), peaked("softmax", output, dim))
        assert found["saturated_fraction"] == pytest.approx(float(expected))


def test_a_softmax_over_one_class_and_an_empty_one_are_left_out() -> None:
    assert peaked("softmax", torch.ones(4, 1)) is None
    assert peaked("softmax", torch.ones(0, 3)) is None
    assert peaked("softmax", torch.tensor(1.0)) is None


# Variance gain --------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_variance_gain_is_the_ratio_of_variances(mean: float) -> None:
    """W7: what a layer does to the variance of the signal."""
    x, weight = torch.randn(50, 20) + mean, torch.randn(10, 20)
    y = functional.linear(x, weight)
    measure = VarianceGainMeasure()
    found = summary(measure, measure.after(called("linear", "layer", x, y)))
    expected = float(y.double().var(correction=0) / x.double().var(correction=0))
    assert found["variance_gain"] == pytest.approx(expected, rel=1e-5)


def test_an_input_that_does_not_vary_has_no_gain() -> None:
    measure = VarianceGainMeasure()
    call = called("linear", "layer", torch.full((4, 3), 0.7), torch.randn(4, 2))
    assert summary(measure, measure.after(call)) == {}


def test_the_gain_of_bad_values_is_not_hidden() -> None:
    measure = VarianceGainMeasure()
    for x, y in ((math.nan, 1.0), (1.0, math.nan), (math.inf, math.inf)):
        call = called("linear", "layer", torch.tensor([[x, 0.0]]), torch.tensor([[y, 0.5]]))
        assert math.isnan(summary(measure, measure.after(call))["variance_gain"])


def test_neighbouring_layers_share_the_moments_between_them() -> None:
    measure, x = VarianceGainMeasure(), torch.randn(4, 3)
    first = called("linear", "layer", x, x * 2)
    measure.after(first)
    assert first.output is not None
    second = Call("next", "linear", "layer", 1, first.output, first.output * 3, first.cache)
    columns = measure.after(second)
    assert columns is not None
    assert summary(measure, columns)["variance_gain"] == pytest.approx(9.0, rel=1e-5)
    assert len(first.cache._known) == 3
