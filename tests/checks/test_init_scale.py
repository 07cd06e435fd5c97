"""Weights too large or too small for their fan-in, and those that any scale suits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from checks.sick import SICK, chain
from checks.subjects import Plain, made, mlp, table
from lightning_diag import init_, preflight
from lightning_diag.before_training import preflight_outcome
from lightning_diag.checks.init_scale import InitScale
from lightning_diag.finding import Finding


def sgd(parameters: Any) -> Any:
    """Return plain gradient descent."""
    return torch.optim.SGD(parameters, lr=0.1)


def adam(parameters: Any) -> Any:
    """Return Adam."""
    return torch.optim.Adam(parameters, lr=1e-3)


def judged(net: Any, optimizer: Callable[..., Any] = sgd) -> list[Finding]:
    """Return what the check says."""
    return preflight(Plain(net, optimizer=optimizer), table(), level=["init-scale"])


def test_a_layer_of_mean_100_is_named() -> None:
    """C6."""
    module, data = made(SICK["init-scale"])
    (finding,) = preflight(module, data, level=["init-scale"])
    assert finding.places == ("net.2.weight",)
    assert finding.evidence.value == pytest.approx(402, rel=0.03)  # 100.5 times the root of 16
    assert "1.41 fits" in finding.message
    init_(module)
    assert preflight(module, data, level=["init-scale"]) == []


def test_ten_layers_of_tanh_with_weights_of_1_or_of_a_hundredth() -> None:
    """W8."""
    torch.manual_seed(0)
    (loud,) = judged(chain(nn.Tanh, 10, gain=5.0))
    assert "too large" in loud.message
    (faint,) = judged(chain(nn.Tanh, 10, gain=0.1), adam)
    assert "too small" in faint.message
    assert judged(init(chain(nn.Tanh, 10, gain=0.1))) == []


def init(net: Any) -> Any:
    """Draw a network's weights as they should be."""
    init_(net)
    return net


def test_a_gain_counts_from_four_on() -> None:
    torch.manual_seed(0)
    net: Any = mlp()
    with torch.no_grad():
        net[2].weight.mul_(3.9 / (net[2].weight.square().mean().sqrt() * 4))
        assert judged(net) == []
        net[2].weight.mul_(4.1 / 3.9)
    assert len(judged(net)) == 1


def test_a_norm_behind_it_forgives_any_scale() -> None:
    torch.manual_seed(0)
    for norm in (nn.BatchNorm1d(16), nn.LayerNorm(16)):
        net: Any = mlp()
        net.insert(3, norm)
        nn.init.normal_(net[2].weight, std=100.0)
        assert judged(net) == []


def test_small_weights_that_adam_makes_up_for_are_no_fault() -> None:
    """With plain gradient descent four such layers stand still."""
    torch.manual_seed(0)
    assert judged(chain(nn.ReLU, 3, gain=0.1), adam) == []
    torch.manual_seed(0)
    assert len(judged(chain(nn.ReLU, 4, gain=0.1), sgd)) == 1


@pytest.mark.parametrize("depth", [1, 3, 6])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU, nn.Sigmoid])
def test_pytorchs_own_weights_are_no_fault(activation: Callable[[], nn.Module], depth: int) -> None:
    torch.manual_seed(0)
    assert judged(chain(activation, depth)) == []


def test_weights_of_zero_are_not_small() -> None:
    """`symmetric-init` tells of them."""
    torch.manual_seed(0)
    net: Any = mlp()
    nn.init.zeros_(net[2].weight)
    assert judged(net) == []


def test_without_layers_nothing_is_said_to_be_well() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.factor

    outcome = preflight_outcome(Plain(Scale()), table(), level=["init-scale"])
    (missing,) = outcome.not_observed
    assert "no linear or convolution layer" in missing.reason


def test_thresholds_must_be_in_order() -> None:
    with pytest.raises(ValueError, match="adaptive_fade"):
        InitScale(fade=1e-3, adaptive_fade=1e-2)


def test_weights_that_were_drawn_by_their_fan_out_are_no_fault() -> None:
    """As the squeeze of squeeze-and-excitation in torchvision's EfficientNet."""

    def squeeze(gain: float) -> nn.Module:
        layer = nn.Linear(256, 8)
        nn.init.kaiming_normal_(layer.weight, gain, mode="fan_out", nonlinearity="leaky_relu")
        return nn.Sequential(nn.Linear(8, 256), nn.ReLU(), layer, nn.ReLU(), nn.Linear(8, 3))

    torch.manual_seed(0)
    assert judged(squeeze(0.0)) == []
    net: Any = squeeze(0.0)
    with torch.no_grad():
        net[2].weight.mul_(4)
    assert judged(net) != []
