"""SELU, and what keeps it from normalising itself (C8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from checks.sick import SICK, chain
from checks.subjects import Plain, made, table
from lightning_diag import init_, preflight
from lightning_diag.finding import Finding


def judged(net: Any, optimizer: Callable[..., Any] | None = None) -> list[Finding]:
    """Return what the check says."""
    module = Plain(net, optimizer=optimizer)
    return preflight(module, table(), level=["broken-self-normalisation"])


def proper(between: Callable[[], nn.Module] | None = None) -> nn.Sequential:
    """Return four SELU layers with LeCun's weights, and something behind each activation."""
    torch.manual_seed(0)
    net = nn.Sequential()
    for layer in chain(nn.SELU, 4):
        net.append(layer)
        if between is not None and isinstance(layer, nn.SELU):
            net.append(between())
    init_(net)
    return net


def test_lecuns_weights_and_nothing_else_are_silent() -> None:
    assert judged(proper()) == []
    assert judged(proper(lambda: nn.AlphaDropout(0.1))) == []
    assert judged(proper(lambda: nn.Dropout(0.0))) == []


def test_pytorchs_own_weights_are_a_note() -> None:
    module, data = made(SICK["broken-self-normalisation"])
    (finding,) = preflight(module, data, level=["broken-self-normalisation"])
    assert finding.severity == "note"
    assert "not LeCun's 1" in finding.message
    init_(module)
    assert preflight(module, data, level=["broken-self-normalisation"]) == []


@pytest.mark.parametrize(
    ("between", "words"),
    [
        (lambda: nn.Dropout(0.2), "plain dropout follows"),
        (lambda: nn.BatchNorm1d(16), "norms are between"),
        (lambda: nn.LayerNorm(16), "norms are between"),
    ],
)
def test_each_broken_condition_is_named(between: Callable[[], nn.Module], words: str) -> None:
    (finding,) = judged(proper(between))
    assert words in finding.message
    assert "1 of its conditions" in finding.message
    assert "net.0.weight" in finding.places


def test_a_norm_before_selu_counts_too() -> None:
    torch.manual_seed(0)
    net = nn.Sequential()
    for layer in chain(nn.SELU, 4):
        if isinstance(layer, nn.SELU):
            net.append(nn.BatchNorm1d(16))
        net.append(layer)
    init_(net)
    (finding,) = judged(net)
    assert "norms are between" in finding.message


class Skips(nn.Module):
    """SELU layers with skip connections."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 16), nn.Linear(16, 3)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Return three logits."""
        x = self.stem(x)
        for layer in self.layers:
            x = x + nn.functional.selu(layer(x))
        out: Tensor = self.head(x)
        return out


def test_skip_connections_are_named() -> None:
    torch.manual_seed(0)
    net = Skips()
    init_(net, torch.zeros(2, 8))
    (finding,) = judged(net)
    assert "residual sums are between" in finding.message


def test_an_l2_penalty_is_named_and_decoupled_decay_is_not() -> None:
    (finding,) = judged(proper(), lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.01))
    assert "weight decay pulls on them" in finding.message
    assert judged(proper(), torch.optim.AdamW) == []


def test_one_or_two_selu_layers_do_not_drift() -> None:
    torch.manual_seed(0)
    assert judged(chain(nn.SELU, 2)) == []
    assert judged(chain(nn.ReLU, 6)) == []
