"""Gains of weights before an activation, against integrals, against torch's, and in deep nets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from initialisation.nets import plain
from lightning_diag import init_
from lightning_diag.initialisation.gains import activation_gain, keeping_gain

GROWING: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "leaky_relu": functional.leaky_relu,
    "elu": functional.elu,
    "celu": functional.celu,
    "selu": functional.selu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "mish": functional.mish,
    "hardswish": functional.hardswish,
}


def mean_square(function: Callable[[Tensor], Tensor], gain: float) -> float:
    """Return E[f(gain z)^2] by Gauss and Hermite, another way than the package's."""
    points, weights = np.polynomial.hermite_e.hermegauss(150)
    values = function(gain * torch.from_numpy(points)).numpy()
    return float((weights * values**2).sum() / weights.sum())


@pytest.mark.parametrize("name", GROWING)
def test_the_gain_keeps_the_mean_square(name: str) -> None:
    """W7, in theory."""
    gain = activation_gain(name)
    assert gain is not None
    assert mean_square(GROWING[name], gain) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize(("name", "slope"), [("relu", None), ("leaky_relu", 0.2)])
def test_relu_and_its_like_have_the_gain_of_torch(name: Any, slope: float | None) -> None:
    theirs = nn.init.calculate_gain(name, slope)
    assert activation_gain(name, slope) == pytest.approx(theirs)


def test_selu_has_the_gain_under_which_it_normalises_itself() -> None:
    """C8: torch's gain for it is 3/4."""
    assert activation_gain("selu") == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "gain"),
    [("tanh", 1.0), ("softsign", 1.0), ("sigmoid", 3.577709), ("hardsigmoid", 5.366563)],
)
def test_bounded_functions_have_the_gain_of_their_slope_at_zero(name: str, gain: float) -> None:
    assert activation_gain(name) == pytest.approx(gain, abs=1e-6)


def test_a_larger_alpha_asks_for_a_smaller_gain() -> None:
    gains = [activation_gain("elu", alpha) for alpha in (0.5, 1.0, 2.0)]
    assert gains == sorted(gains, key=lambda gain: -(gain or 0))
    assert len(set(gains)) == 3


def test_gated_units_keep_the_mean_square() -> None:
    gain = activation_gain("glu") or 0.0
    generator = torch.Generator().manual_seed(0)
    a, b = gain * torch.randn(2, 400_000, generator=generator)
    assert float((a * torch.sigmoid(b)).square().mean()) == pytest.approx(1, abs=0.02)


def test_what_is_unknown_has_no_gain() -> None:
    assert activation_gain("exp") is None
    assert keeping_gain(torch.tanh) is None


def passes(net: Any, depth: int) -> tuple[float, float]:
    """Return by what a signal and its gradient change between the first and the last hidden layer.

    Both as mean squares, of what comes out of the layers.
    """
    x = torch.randn(64, net[0].in_features, generator=torch.Generator().manual_seed(1))
    seen: list[Tensor] = []
    for layer in net:
        x = layer(x)
        if isinstance(layer, nn.Linear):
            x.retain_grad()
            seen.append(x)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    x.backward(noise)
    first, last = seen[0], seen[depth - 1]
    assert first.grad is not None
    assert last.grad is not None
    forward = last.detach().square().mean() / first.detach().square().mean()
    backward = first.grad.square().mean() / last.grad.square().mean()
    return float(forward), float(backward)


def per_layer(change: float, depth: int) -> float:
    """Return the geometric mean of the change."""
    return float(change ** (1 / (depth - 1)))


@pytest.mark.parametrize("depth", [10, 50])
@pytest.mark.parametrize(
    "activation", [nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.Mish, nn.SiLU]
)
def test_a_deep_net_keeps_signal_and_gradient(
    activation: Callable[[], nn.Module], depth: int
) -> None:
    """W7, measured: mean squares change by at most 15 % a layer, forward and backward."""
    torch.manual_seed(0)
    net = plain(activation, depth)
    init_(net)
    forward, backward = passes(net, depth)
    assert per_layer(forward, depth) == pytest.approx(1, abs=0.15)
    assert per_layer(backward, depth) == pytest.approx(1, abs=0.2)


def test_pytorchs_own_weights_lose_both() -> None:
    """What the test above would see without `init_`: a sixth of the mean square is left."""
    torch.manual_seed(0)
    net = plain(nn.ReLU, 10)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)
    for change in passes(net, 10):
        assert per_layer(change, 10) == pytest.approx(1 / 6, abs=0.05)


def flat_share(net: Any) -> tuple[float, float]:
    """Return the last hidden activation's standard deviation and its share near -1 and 1."""
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out = net[:-1](x)
    return float(out.std()), float((out.abs() > 0.99).float().mean())


def test_ten_layers_of_tanh_neither_collapse_nor_saturate() -> None:
    """W8: standard deviation 0.01 collapses, 1 saturates, Xavier's does neither."""
    torch.manual_seed(0)
    net = plain(nn.Tanh, 10)
    ends = []
    for std in (0.01, 1.0):
        for layer in net:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=std)
                nn.init.zeros_(layer.bias)
        ends.append(flat_share(net))
    assert ends[0][0] < 1e-3
    assert ends[1][1] > 0.8
    init_(net)
    std, flat = flat_share(net)
    assert 0.1 < std < 0.5
    assert flat < 0.01


def test_ten_layers_of_relu_need_more_than_xavier() -> None:
    """W8: Xavier's halves the mean square at each ReLU, He's keeps it."""
    ends = {}
    for scheme in ("xavier", "he"):
        torch.manual_seed(0)
        net = plain(nn.ReLU, 10)
        init_(net, scheme=scheme)
        ends[scheme] = per_layer(passes(net, 10)[0], 10)
    assert ends["xavier"] == pytest.approx(0.5, abs=0.05)
    assert ends["he"] == pytest.approx(1.0, abs=0.1)
