"""Signal and gradient along depth, before training: lost, growing, or kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from checks.sick import SICK, chain
from checks.subjects import Adversaries, Plain, loader, made, mlp, numbers, table
from checks.test_init_scale import adam, init, sgd
from lightning_diag import preflight
from lightning_diag.before_training import preflight_outcome, subject
from lightning_diag.checks.signal import signal
from lightning_diag.finding import Finding

CODES = ["collapsed-activation", "exploding-gradient"]


def judged(net: Any, optimizer: Callable[..., Any] = sgd, data: Any = None) -> list[Finding]:
    """Return what both checks say."""
    return preflight(Plain(net, optimizer=optimizer), data or table(), level=CODES)


def test_ten_gelu_layers_with_pytorchs_own_weights_let_nothing_through() -> None:
    """W7, W8; Adam learns all the same."""
    torch.manual_seed(0)
    net = chain(nn.GELU, 10)
    (finding,) = judged(net)
    assert finding.code == "collapsed-activation"
    assert finding.places[0] == "net.20.weight"
    assert "plain gradient descent" in finding.message
    assert "the first layer's gradient is" in finding.message
    assert judged(net, adam) == []


def test_twenty_four_tanh_layers_are_too_many_for_adam() -> None:
    torch.manual_seed(0)
    net = chain(nn.Tanh, 24)
    (finding,) = judged(net, adam)
    assert finding.code == "collapsed-activation"
    assert judged(init(net)) == []


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ELU, nn.SELU, nn.Tanh, nn.GELU])
def test_what_was_drawn_by_init_is_healthy_at_any_depth(
    activation: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    for depth in (5, 12):
        assert judged(init(chain(activation, depth))) == []


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.SiLU, nn.LeakyReLU])
def test_a_few_layers_with_pytorchs_own_weights_are_healthy(
    activation: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    for depth in (2, 4, 6):
        assert judged(chain(activation, depth)) == []


def test_a_norm_starts_the_signal_anew() -> None:
    torch.manual_seed(0)
    net = chain(nn.GELU, 10)
    net.insert(len(net) - 1, nn.LayerNorm(16))
    assert judged(net) == []
    between = nn.Sequential()
    for layer in chain(nn.GELU, 10):
        between.append(layer)
        if isinstance(layer, nn.Linear) and layer.out_features == 16:
            between.append(nn.BatchNorm1d(16))
    assert judged(between) == []


class Past(nn.Module):
    """Twenty branches, added to what goes past them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 16), nn.Linear(16, 3)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(20))

    def forward(self, x: Tensor) -> Tensor:
        """Return three logits."""
        x = self.stem(x)
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        out: Tensor = self.head(x)
        return out


def test_a_deep_residual_network_is_healthy() -> None:
    torch.manual_seed(0)
    assert judged(Past()) == []


def test_raw_data_of_any_scale_are_not_taken_for_the_network() -> None:
    torch.manual_seed(0)
    for scale in (1e-5, 1e5):
        data: Any = table()
        data.dataset.tensors[0].mul_(scale)
        assert judged(mlp(), data=data) == []
        assert judged(chain(nn.Tanh, 4), data=data) == []


def test_dropout_is_not_taken_for_a_signal() -> None:
    """Its noise makes samples differ where the network no longer does."""
    torch.manual_seed(0)
    net = chain(nn.GELU, 10)
    net.insert(len(net) - 1, nn.Dropout(0.5))
    (finding,) = judged(net)
    assert finding.code == "collapsed-activation"


def test_growth_in_each_layer_is_told() -> None:
    module, data = made(SICK["exploding-gradient"])
    (finding,) = preflight(module, data, level=CODES)
    assert finding.code == "exploding-gradient"
    assert finding.evidence.value > 1000
    init(module)
    assert preflight(module, data, level=CODES) == []


def test_one_cause_is_told_once() -> None:
    """Small weights are `init-scale`'s, not the collapse that they lead to."""
    torch.manual_seed(0)
    module = Plain(chain(nn.Tanh, 10, gain=0.1))
    (finding,) = preflight(module, table(), level=["init-scale", *CODES])
    assert finding.code == "init-scale"


def test_samples_that_are_all_alike_say_nothing() -> None:
    torch.manual_seed(0)
    data = loader(numbers(1, 8).expand(16, 8).contiguous(), torch.zeros(16).long())
    assert judged(chain(nn.GELU, 10), data=data) == []
    module = Plain(chain(nn.GELU, 10))
    (missing,) = preflight_outcome(module, data, level=CODES[:1]).not_observed
    assert "no layers follow each other" in missing.reason


def test_manual_optimisation_is_not_called_healthy() -> None:
    outcome = preflight_outcome(Adversaries(), loader(numbers(16, 8)), level=CODES)
    reasons = {each.reason for each in outcome.not_observed}
    assert reasons == {"with manual optimisation one step may train several networks"}


def test_a_step_is_followed_once_for_all_checks() -> None:
    of = subject(Plain(mlp()), table())
    assert signal(of) is signal(of)
    first, middle, last = signal(of).passages
    assert [each.followed.text for each in (first, middle, last)] == ["relu", "relu", "loss"]
    assert signal(of).gradients["net.0.weight"] > 0
    assert math.isfinite(first.std)
