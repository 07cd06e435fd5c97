"""Weights scaled by what comes out of them, and what a pass shows of signal and gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from initialisation.nets import Residual, encoder, lenet, plain
from lightning_diag import init_
from lightning_diag.initialisation.propagation import propagate


def batch(*shape: int) -> Tensor:
    """Return normal numbers, the same each time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_each_layer_puts_out_variance_1() -> None:
    """Mishkin and Matas, also far from unit inputs, and with activations of no known gain."""
    net = plain(nn.Tanhshrink, 8, width=64)
    x = 30 * batch(128, 64) + 5
    table = init_(net, x, scheme="lsuv")
    assert "scaled by" in table["0.weight"].reason
    for layer in net:
        with torch.no_grad():
            x = layer(x)
        if isinstance(layer, nn.Linear):
            assert float(x.std()) == pytest.approx(1, abs=0.02)


def test_one_pass_gives_what_a_pass_for_each_layer_gives() -> None:
    """The paper's own loop: run up to a layer, divide its weights, and go on to the next."""
    nets = [lenet(), lenet()]
    x = batch(32, 1, 12, 12)
    init_(nets[0], x, scheme="lsuv", generator=torch.Generator().manual_seed(1))
    init_(nets[1], scheme="orthogonal", generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for i, layer in enumerate(nets[1]):
            if hasattr(layer, "weight"):
                layer.weight /= nets[1][: i + 1](x).std()
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.allclose(one, other, rtol=0.02, atol=1e-6)


def test_ends_of_branches_share_the_variance() -> None:
    net: Any = Residual(4, width=32)
    init_(net, x := batch(64, 32), scheme="lsuv")
    with torch.no_grad():
        inside = torch.relu(net.a[0](net.stem(x)))
        assert float(net.b[0](inside).std()) == pytest.approx(0.5, rel=0.05)


def test_attention_is_scaled_where_it_puts_out() -> None:
    table = init_(encoder(norm_first=True), batch(16, 3, 8), scheme="lsuv")
    assert "scaled by" in table["layers.0.self_attn.out_proj.weight"].reason


def test_what_cannot_be_scaled_is_said() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.used(x)
            return out

    table = init_(Unused(), torch.zeros(2, 4), scheme="lsuv")
    assert table["used.weight"].reason == "not scaled: its output does not vary"
    assert "its output was not seen" in table["spare.weight"].reason


def test_only_chosen_layers_are_scaled() -> None:
    net = plain(nn.ReLU, 2, width=16)
    before = net[0].weight.detach().clone()
    init_(net, batch(32, 16), scheme="lsuv", only="2")
    assert torch.equal(net[0].weight, before)


def test_signal_and_gradient_are_measured_at_each_layer() -> None:
    """Against autograd by hand."""
    torch.manual_seed(0)
    net: Any = nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 1))
    x = batch(32, 6)
    first, last = propagate(net, run=lambda: net(x).square().mean())
    hidden = net[0](x)
    hidden.retain_grad()
    loss = net[2](hidden.relu()).square().mean()
    loss.backward()
    assert hidden.grad is not None
    assert first.gradient == pytest.approx(float(hidden.grad.square().mean().sqrt()), rel=1e-5)
    assert first.std == pytest.approx(float(hidden.detach().square().mean().sqrt()), rel=1e-5)
    spread = hidden.detach().var(0).mean().sqrt()
    assert first.spread == pytest.approx(float(spread), rel=1e-5)
    assert first.input_std == pytest.approx(float(x.square().mean().sqrt()), rel=1e-5)
    assert (first.followed.text, first.depth, last.depth) == ("relu", 1, 2)


def test_measuring_leaves_gradients_and_weights_alone() -> None:
    net = plain(nn.Tanh, 2, width=8)
    state = torch.get_rng_state()
    assert len(propagate(net, batch(4, 8))) == 3
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_dictionary_with_a_loss_is_a_loss() -> None:
    net = nn.Linear(3, 1)
    (passage,) = propagate(net, run=lambda: {"loss": net(batch(2, 3)).sum(), "out": batch(2, 3)})
    assert passage.gradient == pytest.approx(1)
