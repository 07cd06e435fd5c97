"""Gradients are compared with centred differences, and kinks are told from mistakes (C4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from checks.functions import (
    Clamped,
    Halved,
    Layer,
    Reversed,
    Rounded,
    Squared,
    Transposed,
    Turned,
    run,
)
from lightning_diag.checks.autograd_functions import arguments_of, judged, written_functions
from lightning_diag.checks.calm import Calm, calmed
from lightning_diag.checks.cuts import Cuts
from lightning_diag.checks.differences import STEPS, Value, compared, differences, relative_error
from lightning_diag.checks.double import Double, in_double, make_double, raised
from lightning_diag.checks.few import first_samples, joined, samples_of


def verdict(function: Callable[[float], float], analytic: float) -> str:
    """Return what is said of a derivative at 0."""
    return compared(lambda x: Value(function(x)), analytic, function(0.0)).verdict


@pytest.mark.parametrize(
    ("function", "derivative"),
    [
        (lambda x: math.exp(3 * x), 3.0),
        (lambda x: math.sin(x - 1), math.cos(-1)),
        (lambda x: 1e6 * (x + 2) ** 3, 12e6),
        (lambda x: 1e-6 * (x + 2) ** 3, 12e-6),
        (lambda x: math.cos(1000 * x + 1), -1000 * math.sin(1)),
        (lambda x: 1e4 + 0.01 * x, 0.01),
        (lambda x: 5.0, 0.0),
    ],
)
def test_a_right_derivative_is_right_and_others_are_wrong(
    function: Callable[[float], float], derivative: float
) -> None:
    assert verdict(function, derivative) == "right"
    assert verdict(function, 2 * derivative + 1) == "wrong"
    assert verdict(function, -derivative - 1) == "wrong"


@pytest.mark.parametrize("analytic", [0.0, 0.5, 1.0])
def test_any_slope_between_both_sides_of_a_kink_is_none_of_our_business(analytic: float) -> None:
    assert verdict(lambda x: max(x, 0.0), analytic) in ("kink", "right")
    assert verdict(lambda x: max(x, 0.0), 2.0) == "wrong"


@pytest.mark.parametrize("at", [3e-8, 3e-7, 3e-6, -3e-5, 3e-4])
def test_a_kink_close_by_hides_neither_a_right_nor_a_wrong_slope(at: float) -> None:
    slope = 1.0 if at < 0 else 0.0
    assert verdict(lambda x: max(x - at, 0.0), slope) == "right" or abs(at) < 1e-7
    assert verdict(lambda x: max(x - at, 0.0), 3.0) == "wrong"


def test_a_choice_that_changes_in_every_difference_is_a_kink() -> None:
    changing = compared(lambda x: Value(x, is_same=False), 5.0, 0.0)
    assert changing.verdict == "kink"


def test_what_rounding_hides_is_not_judged() -> None:
    assert verdict(lambda x: 1e9 + 1e-6 * x, 3e-6) == "small"


def test_a_step_function_is_flat() -> None:
    found = compared(lambda x: Value(round(10 * (x + 0.52))), 1.0, 5.0)
    assert found.is_flat
    assert found.verdict == "wrong"
    assert min(STEPS) == 1e-7


def test_values_that_are_not_finite_say_nothing() -> None:
    assert verdict(lambda x: math.inf if x else 0.0, 1.0) == "small"


def test_the_relative_error_is_over_the_larger() -> None:
    assert relative_error(1.0, -1.0) == 2.0
    assert relative_error(0.0, 5.0) == 1.0


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 1, 3)])
def test_tensors_of_any_shape_are_as_before(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64).transpose(0, -1) if shape else torch.tensor(2.0)
    x = x.double()
    before = x.clone()
    made = differences(lambda: Value(float((x**3).sum())), {"x": x}, {"x": 3 * x**2})
    found = [each for _, each in made]
    assert {each.verdict for each in found} == {"right"}
    assert len({each.element for each in found}) == min(3, x.numel())
    assert torch.equal(x, before)


def test_the_largest_gradient_comes_first() -> None:
    x = torch.arange(9, dtype=torch.float64)
    _, first = next(differences(lambda: Value(float((x**2).sum())), {"x": x}, {"x": 2 * x}))
    assert first.element == 8


# Functions alone ------------------------------------------------------------------------------


def kind(cls: type[torch.autograd.Function], *args: Tensor) -> str:
    """Return what a function is said to be."""
    given = tuple(each.double().requires_grad_() for each in args)
    return judged(cls, [given], wrong=1e-2, kink=1e-4).kind


X = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (Squared, "right"), (Halved, "wrong"), (Turned, "wrong"), (Rounded, "estimator"),
        (Reversed, "identity"), (Clamped, "passing"),
    ],
)  # fmt: skip
def test_a_function_is_judged_alone(cls: type[torch.autograd.Function], expected: str) -> None:
    assert kind(cls, 0.1 * X) == expected


def test_both_ways_to_write_a_function_and_all_inputs_are_looked_at() -> None:
    assert kind(Layer, X, X.t()) == "right"
    assert kind(Transposed, X, X.t()) == "wrong"


def test_a_function_that_cannot_be_called_alone_is_not_known() -> None:
    class Broken(Squared):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            raise RuntimeError

    assert kind(Broken, X) == "unknown"


def test_the_factor_of_a_wrong_backward_is_told() -> None:
    given = X.double().requires_grad_()
    half = judged(Halved, [(given,)], wrong=1e-2, kink=1e-4)
    assert half.factor == pytest.approx(0.5, rel=1e-4)


def test_functions_of_a_graph_know_what_is_behind_them() -> None:
    one, two = X.clone().requires_grad_(), X.clone().requires_grad_()
    (found,) = written_functions((run(Halved, one) + two).sum())
    assert (found.name, found.cls) == ("Halved", Halved)
    assert found.reaches == {id(one)}


def test_arguments_are_noted_and_the_function_is_as_before() -> None:
    """P26: also where it inherits its forward."""
    before = Squared.forward, vars(Halved).get("forward")
    apply: Any = Halved.apply
    with arguments_of([Squared, Halved]) as calls:
        apply(X)
        run(Squared, X)
    assert [len(each) for each in calls.values()] == [1, 1]
    assert torch.equal(calls[Halved][0][0], X)
    assert (Squared.forward, vars(Halved).get("forward")) == before


# Cuts -----------------------------------------------------------------------------------------


def test_detached_values_stay_what_they_were() -> None:
    x, cuts = torch.tensor([1.0, 2.0], requires_grad=True), Cuts()

    def value() -> float:
        with cuts, torch.enable_grad():
            with torch.no_grad():
                frozen = x.exp().sum()
            kept = torch.tensor(x.sum().item())
            made = (x * x.detach() * frozen * x.data.mean() * kept).sum()
        return made.item()

    first = value()
    with torch.no_grad():
        x.mul_(2)
    assert value() == pytest.approx(2 * first)


@pytest.mark.parametrize(
    "function",
    [
        torch.relu, torch.abs, functional.leaky_relu, functional.relu6,
        lambda x: x.clamp(0, 1), lambda x: x > 0, lambda x: x.argmax(), lambda x: x.sort().values,
        lambda x: functional.max_pool1d(x[None], 2), lambda x: nn.MaxPool1d(2)(x[None]),
        lambda x: x.max(0).values,
    ],
)  # fmt: skip
def test_a_choice_that_changes_is_noticed(function: Callable[[Tensor], Tensor]) -> None:
    x, cuts = torch.tensor([-0.1, 0.2], requires_grad=True), Cuts()
    for factor, is_same in ((1.0, True), (1.01, True), (-1.0, False)):
        with torch.no_grad():
            x.mul_(factor)
        with cuts, torch.enable_grad():
            function(x)
        assert cuts.is_same is is_same


def test_another_way_through_the_code_is_no_longer_the_same() -> None:
    x, cuts = torch.tensor(1.0, requires_grad=True), Cuts()
    for value in (1.0, -1.0):
        x.data.fill_(value)
        with cuts:
            _ = x.detach() if x > 0 else x
    assert not cuts.is_same


# A calm copy in float64 -----------------------------------------------------------------------


def test_everything_becomes_float64_also_under_autocast() -> None:
    net = nn.Linear(2, 2)
    net.scale = torch.ones(2)
    make_double(net)
    with in_double(), torch.autocast("cpu", torch.bfloat16):
        out = net(torch.ones(1, 2).half()) * net.scale + torch.zeros(2, dtype=torch.float32)
        assert out.dtype is torch.zeros(1).dtype is torch.float64
    assert torch.zeros(1).dtype is torch.float32
    assert [t.dtype for t in raised([torch.ones(1), torch.arange(1)])] == [
        torch.float64, torch.int64]  # fmt: skip


def test_integers_stay_integers() -> None:
    with Double():
        assert torch.ones(1).long().dtype is torch.int64
        assert torch.ones(1).to(torch.bool).dtype is torch.bool


@pytest.mark.parametrize(
    "module",
    [
        nn.Dropout(0.9), nn.Dropout1d(0.9), nn.AlphaDropout(0.9), nn.FeatureAlphaDropout(0.9),
        nn.TransformerEncoderLayer(4, 2, 8, 0.9, batch_first=True),
        nn.LSTM(4, 4, 2, dropout=0.9),
    ],
)  # fmt: skip
def test_nothing_is_dropped_in_training_mode(module: nn.Module) -> None:
    calmed(module)
    x = torch.ones(1, 3, 4)
    with Calm():
        one, other = (module(x) for _ in range(2))
    same = torch.equal(one, other) if isinstance(one, Tensor) else torch.equal(one[0], other[0])
    assert same
    assert module.training


def test_labels_are_not_smoothed() -> None:
    x, y = torch.tensor([[50.0, 0.0]]), torch.tensor([0])
    with Calm():
        assert nn.CrossEntropyLoss(label_smoothing=0.5)(x, y) == 0


# A few samples --------------------------------------------------------------------------------


def test_samples_are_cut_only_where_it_is_clear_what_a_sample_is() -> None:
    pair = {"x": torch.arange(8).view(4, 2), "y": [torch.arange(4)]}
    assert samples_of(pair) == 4
    assert first_samples(pair, 2)["y"][0].tolist() == [0, 1]
    for unclear in ([torch.zeros(4), torch.zeros(3)], [torch.zeros(2), ["a", "b"]], "x"):
        assert first_samples(unclear, 1) is unclear


def test_small_batches_are_joined_where_they_fit() -> None:
    ones, twos = [torch.ones(2, 3), torch.ones(2)], [torch.zeros(2, 3), torch.zeros(2)]
    assert joined([ones, twos], 3)[1].tolist() == [1, 1, 0]
    odd = [torch.zeros(2, 4), torch.zeros(2)]
    assert joined([ones, odd], 3) is ones
