"""Units that are copies of each other, and those that only begin so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from checks.sick import SICK
from checks.subjects import Plain, made, mlp, numbers, table
from lightning_diag import init_, preflight
from lightning_diag.before_training import subject
from lightning_diag.checks import run
from lightning_diag.checks.symmetric_init import SymmetricInit
from lightning_diag.finding import Finding


def judged(module: Any, data: Any = None) -> list[Finding]:
    """Return what the check says."""
    return preflight(module, table() if data is None else data, level=["symmetric-init"])


def filled(net: Any, value: float, *names: str) -> Any:
    """Fill parameters, all if none is named."""
    for name, parameter in net.named_parameters():
        if not names or name in names:
            nn.init.constant_(parameter, value)
    return net


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_constant_weights_are_found(value: float) -> None:
    """C5; the last layer's units are told apart by their targets."""
    (finding,) = judged(Plain(filled(mlp(), value)))
    assert set(finding.places) == {"net.0.weight", "net.2.weight"}
    assert finding.severity == "bad"
    assert "2 of 2 hidden weights" in finding.message


def test_the_remedy_cures_it() -> None:
    module, data = made(SICK["symmetric-init"])
    init_(module)
    assert judged(module, data) == []


@pytest.mark.parametrize(
    "names", [("0.weight",), ("2.weight",), ("4.weight",), ("4.weight", "4.bias")]
)
def test_one_constant_layer_learns(names: tuple[str, ...]) -> None:
    """Random layers around it give each unit a gradient of its own."""
    torch.manual_seed(0)
    assert judged(Plain(filled(mlp(), 0.1, *names))) == []


class Branches(nn.Module):
    """Branches whose last layers begin at zero, before a head that does, too."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, width), nn.Linear(width, 3)
        self.a = nn.ModuleList(nn.Linear(width, 4) for _ in range(2))
        self.b = nn.ModuleList(nn.Linear(4, width, bias=False) for _ in range(2))
        for layer in (*self.b, self.head):
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return three logits."""
        x = self.stem(x)
        for a, b in zip(self.a, self.b, strict=True):
            x = x + b(functional.relu(a(x)))
        out: Tensor = self.head(x)
        return out


def test_branches_and_heads_that_begin_at_zero_are_deliberate() -> None:
    """Fixup, ReZero, LoRA and adapters."""
    torch.manual_seed(0)
    assert judged(Plain(Branches())) == []


def test_a_gradient_that_tells_units_apart_is_enough() -> None:
    """It comes before the weights have moved."""
    torch.manual_seed(0)
    check = SymmetricInit(steps=1)
    assert run([check], subject(Plain(Branches()), table())).findings == []


def test_units_that_were_doubled_are_found_only_if_their_outputs_were_too() -> None:
    """Net2Net halves what comes out of a doubled unit, which keeps it a copy."""
    torch.manual_seed(0)
    net: Any = mlp()
    with torch.no_grad():
        net[0].weight[8:] = net[0].weight[:8]
        net[0].bias[8:] = net[0].bias[:8]
        assert judged(Plain(net)) == []
        net[2].weight[:, 8:] = net[2].weight[:, :8]
    (finding,) = judged(Plain(net))
    assert finding.places == ("net.0.weight",)


class Memory(nn.Module):
    """A recurrent network and a head."""

    def __init__(self, kind: Callable[..., Any]) -> None:
        super().__init__()
        self.rnn, self.head = kind(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return three logits."""
        out: Tensor = self.head(self.rnn(x[:, None].expand(-1, 3, -1))[0][:, -1])
        return out


def test_constant_gates_are_found() -> None:
    (finding,) = judged(Plain(filled(Memory(nn.LSTM), 0.1)))
    assert finding.places == ("net.rnn.weight_ih_l0", "net.rnn.weight_hh_l0")
    torch.manual_seed(0)
    assert judged(Plain(Memory(nn.LSTM))) == []


def test_what_is_frozen_does_not_count() -> None:
    module = Plain(filled(mlp(), 0.1))
    module.net[0].requires_grad_(False)
    module.net[2].requires_grad_(False)
    assert judged(module) == []


def test_channels_of_transposed_convolutions_are_its_units() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Unflatten(1, (2, 2, 2)), nn.ConvTranspose2d(2, 4, 2), nn.ReLU(),
        nn.Conv2d(4, 3, 3), nn.Flatten(),
    )  # fmt: skip
    assert judged(Plain(net)) == []
    (finding,) = judged(Plain(filled(net, 0.1)))
    assert finding.places == ("net.1.weight",)


def test_a_batch_without_differences_is_no_reason() -> None:
    """Samples that are alike give units gradients that differ all the same."""
    torch.manual_seed(0)
    data: Any = table()
    data.dataset.tensors[0].copy_(numbers(1, 8))
    assert judged(Plain(mlp()), data) == []
