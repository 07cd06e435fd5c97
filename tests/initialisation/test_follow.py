"""What follows each layer, seen in a pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from initialisation.nets import BatchNormBlock, Gate, Loop, Own, Residual, Written, encoder
from lightning_diag import suggest_init
from lightning_diag.initialisation.follow import followers_by_order, followers_seen, passed
from lightning_diag.initialisation.trace import Trace


def followed(net: nn.Module, *inputs: Any) -> dict[str, str]:
    """Return what follows each layer, in words."""
    trace = Trace(net)
    passed(net, inputs, None, trace)
    return {name: found.text for name, found in followers_seen(trace).items()}


def rms_norm(x: Tensor) -> Tensor:
    """Return a norm that is written out."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def layer_norm(x: Tensor) -> Tensor:
    """Return another one."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred * centred).mean(-1, keepdim=True).sqrt()


def tanh_gelu(x: Tensor) -> Tensor:
    """Return GELU's approximation, as GPT-2 writes it."""
    return 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.044715 * torch.pow(x, 3.0))))


@pytest.mark.parametrize(
    ("between", "words"),
    [
        (functional.relu, "relu"),
        (torch.relu_, "relu"),
        (lambda x: x.clamp(min=0), "relu"),
        (lambda x: x.clamp(-1, 1), "clamp"),
        (nn.ReLU6(), "relu6"),
        (nn.PReLU(), "leaky_relu"),
        (nn.RReLU(), "leaky_relu"),
        (lambda x: x * torch.sigmoid(x), "silu"),
        (lambda x: 0.5 * x * (1 + torch.erf(x / 1.4142)), "gelu"),
        (tanh_gelu, "gelu"),
        (lambda x: x * torch.tanh(functional.softplus(x)), "mish"),
        (rms_norm, "norm, layer"),
        (layer_norm, "norm, layer"),
        (lambda x: functional.dropout(rms_norm(x)).relu(), "norm, relu"),
        (lambda x: x.view(x.shape[0], 2, 3).transpose(1, 2).flatten(1).tanh(), "tanh"),
        (lambda x: torch.cat([x[:, :3], x[:, 3:]], 1).tanh(), "tanh"),
        (lambda x: x, "layer"),
        (torch.exp, "exp"),
        (lambda x: x + torch.zeros_like(x), "layer"),
        (lambda x: functional.softmax(x, -1), "softmax"),
    ],
)
def test_what_is_between_two_layers_is_seen(
    between: Callable[[Tensor], Tensor], words: str
) -> None:
    seen = followed(Written(between), torch.randn(3, 4))
    assert seen == {"first.weight": words, "last.weight": "output"}


def test_a_resnets_block_is_seen_through_functions_and_in_place_sums() -> None:
    seen = followed(BatchNormBlock(), torch.randn(2, 3, 8, 8))
    assert seen == {
        "one.weight": "norm, relu",
        "two.weight": "norm, relu",
        "past.weight": "relu",
    }


def test_ends_of_residual_branches_are_known() -> None:
    trace = Trace(net := Residual(3))
    passed(net, (torch.randn(2, 8),), None, trace)
    found = followers_seen(trace)
    ends = [name for name, each in found.items() if each.is_residual]
    assert ends == ["b.0.weight", "b.1.weight", "b.2.weight"]
    assert trace.residual_adds == 3
    assert found["stem.weight"].text == "layer"


@pytest.mark.parametrize(("norm_first", "adds"), [(True, 4), (False, 1)])
def test_a_norm_of_each_sum_keeps_branches_from_adding_up(norm_first: bool, adds: int) -> None:
    trace = Trace(net := encoder(norm_first=norm_first))
    passed(net, (torch.randn(2, 3, 8),), None, trace)
    found = followers_seen(trace)
    assert trace.residual_adds == adds
    assert found["layers.0.linear1.weight"].text == "gelu"
    assert found["layers.0.linear2.weight"].text == "residual sum"
    assert found["layers.1.self_attn.out_proj.weight"].text == "residual sum"


def test_layers_of_plain_parameters_are_layers() -> None:
    trace = Trace(net := Own())
    passed(net, (torch.randint(7, (2, 3)),), None, trace)
    found = followers_seen(trace)
    assert {name: each.text for name, each in found.items()} == {
        "table.weight": "output",
        "order.weight": "layer",
        "into": "relu",
        "back": "layer",
    }
    assert found["table.weight"].is_tied
    fans = {use.weight: use.fans for use in trace.uses}
    assert fans["into"] == (4, 5)
    assert fans["back"] == (5, 4)


def test_a_loop_is_no_residual_branch() -> None:
    assert followed(Loop(), torch.randn(2, 4, 3)) == {
        "into.weight": "tanh",
        "again.weight": "tanh",
        "out.weight": "output",
    }


def test_a_gate_is_told_from_an_activation_between_layers() -> None:
    trace = Trace(net := Gate())
    passed(net, (torch.randn(2, 4),), None, trace)
    found = followers_seen(trace)
    assert found["gate.weight"].text == "sigmoid"
    assert not found["gate.weight"].is_hidden
    assert found["body.weight"].is_hidden


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_parametrized_weight_goes_by_its_own_name(
    wrap: Callable[[nn.Module], nn.Module],
) -> None:
    net = nn.Sequential(wrap(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2))
    assert followed(net, torch.randn(2, 4)) == {"0.weight": "relu", "2.weight": "output"}


def test_a_loss_within_the_run_is_an_end() -> None:
    net = Written(torch.tanh)
    y = torch.zeros(2, dtype=torch.long)
    table = suggest_init(net, run=lambda: functional.cross_entropy(net(torch.randn(2, 4)), y))
    assert table["last.weight"].followed_by == "loss"


def test_without_inputs_only_a_sequential_is_certain() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.LeakyReLU(0.2), nn.Dropout2d(),
        nn.Sequential(nn.Conv2d(8, 8, 3), nn.MaxPool2d(2)), nn.SELU(), nn.Flatten(),
        nn.Linear(8, 4), Written(torch.tanh),
    )  # fmt: skip
    found = {name: each.text for name, each in followers_by_order(net).items()}
    assert found == {
        "0.weight": "norm, leaky_relu",
        "4.0.weight": "selu",
        "7.weight": "not known",
    }
    assert followers_by_order(net)["0.weight"].parameter == 0.2
    assert followers_by_order(Written(torch.tanh)) == {}


def test_a_pass_leaves_everything_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    suggest_init(net, torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)
    after = net.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert net.training
    assert all(parameter.grad is None for parameter in net.parameters())
