"""A loss function gets what it takes: scores, logarithms, and not what has been cut off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from checks.sick_outputs import Does, series
from checks.subjects import Plain, loader, made, mlp, numbers, table
from lightning_diag.before_training import subject
from lightning_diag.checks.output_activation_mismatch import (
    OutputActivationMismatch,
    distribution_shares,
)
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.rules import output_activation_mismatch as rule

Loss = Callable[..., Tensor]


def judged(net: nn.Module, loss: Loss, data: Any = None) -> list[Finding]:
    """Return what the check says of a network and a loss."""
    pair = made(lambda: (Plain(net, loss), table() if data is None else data))
    found = OutputActivationMismatch()(subject(*pair))
    assert not isinstance(found, NotObserved)
    return found


def hot(loss: Loss) -> Loss:
    """Return a loss that takes classes as ones among zeros."""
    return lambda x, y: loss(x, functional.one_hot(y, 3).float())


def flat(loss: Loss) -> Loss:
    """Return a loss of one output a sample."""
    return lambda x, y: loss(x.squeeze(1), y.float())


def ending(last: nn.Module, outputs: int = 3) -> nn.Module:
    """Return a network that ends with an activation function."""
    return nn.Sequential(*mlp(outputs), last)


def yes_or_no() -> Any:
    """Return answers of 0 and 1."""
    x = numbers(64, 8)
    return loader(x, (x[:, 0] > 0).long())


def values(shift: float = 0.0, scale: float = 1.0) -> Any:
    """Return standard normal targets, scaled and shifted."""
    x = numbers(64, 8)
    return loader(x, scale * x[:, 0] + shift)


def divergence(x: Tensor, y: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence as it is defined."""
    return functional.kl_div(x, y, reduction="batchmean")


CE, NLL = functional.cross_entropy, functional.nll_loss
WITH_LOGITS, MSE = functional.binary_cross_entropy_with_logits, functional.mse_loss
WRONG: dict[str, tuple[Callable[[], list[Finding]], str, str]] = {
    "softmax twice": (lambda: judged(ending(nn.Softmax(1)), CE), "bad", "softmax to what is"),
    "softmax over samples": (
        lambda: judged(ending(nn.Softmax(0)), CE), "bad",
        "a softmax over dimension 0 (the samples), and not over the classes",
    ),
    "softmax over time": (
        lambda: judged(Does(lambda m, x: m[0](x).transpose(1, 2).softmax(2), nn.Linear(8, 3)),
                       lambda x, y: CE(x, y[:, None].expand(-1, 6)), series()),
        "bad", "a softmax over dimension 2, and not over the classes",
    ),
    "log-softmax over samples": (
        lambda: judged(ending(nn.LogSoftmax(0)), NLL), "bad",
        "a log-softmax over dimension 0 (the samples), and not over the classes",
    ),
    "sigmoid twice": (
        lambda: judged(ending(nn.Sigmoid(), 1), flat(WITH_LOGITS), yes_or_no()), "bad",
        "applies a sigmoid to the output of a sigmoid",
    ),
    "tanh and sigmoid": (
        lambda: judged(ending(nn.Tanh(), 1), flat(WITH_LOGITS), yes_or_no()), "suspect",
        "from 27 % to 73 %",
    ),
    "scores as logarithms": (lambda: judged(mlp(), NLL), "bad", "is given scores where it wants"),
    "probabilities as logarithms": (
        lambda: judged(ending(nn.Softmax(1)), NLL), "bad", "is given probabilities where it wants",
    ),
    "probabilities to a divergence": (
        lambda: judged(ending(nn.Softmax(1)), hot(divergence)), "bad",
        "is given probabilities where it wants",
    ),
    "scores to a divergence": (
        lambda: judged(mlp(), hot(divergence)), "bad", "is given scores where it wants",
    ),
    "cut scores": (lambda: judged(ending(nn.ReLU()), CE), "suspect", "the output of a relu"),
    "one class": (
        lambda: judged(mlp(1), lambda x, y: CE(x, 0 * y)), "bad", "a cross-entropy over 1 class",
    ),
    "squares of samples": (
        lambda: judged(ending(nn.Softmax(0)), hot(MSE)), "bad", "over dimension 0 (the samples)",
    ),
    "out of reach": (
        lambda: judged(ending(nn.Sigmoid(), 1), flat(MSE), values(-1.0)), "bad",
        "which stays between 0 and 1",
    ),
    "a few out of reach": (
        lambda: judged(ending(nn.ReLU(), 1), flat(MSE), values(1.2)), "suspect",
        "which cannot go below 0",
    ),
    "logarithm of a softmax": (
        lambda: judged(ending(nn.Softmax(1)), lambda x, y: NLL(x.log(), y)), "note",
        "in 2 functions",
    ),
    "logarithm of a softmax, and again": (
        lambda: judged(ending(nn.Softmax(1)), lambda x, y: CE(x.log(), y)), "note",
        "in 2 functions",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_what_a_loss_does_not_take_is_found(fault: str) -> None:
    make, severity, text = WRONG[fault]
    (finding,) = make()
    assert finding.severity == severity
    assert text in finding.message
    assert "in each of 3 steps" in finding.message


RIGHT: dict[str, Callable[[], list[Finding]]] = {
    "scores": lambda: judged(mlp(), CE),
    "logarithms": lambda: judged(ending(nn.LogSoftmax(1)), NLL),
    "logarithms to a cross-entropy": lambda: judged(ending(nn.LogSoftmax(1)), CE),
    "logarithms to a divergence": lambda: judged(ending(nn.LogSoftmax(1)), hot(divergence)),
    "logarithms over channels to a divergence": lambda: judged(
        Does(lambda m, x: m[0](x).transpose(1, 2).log_softmax(1), nn.Linear(8, 3)),
        lambda x, _: divergence(x, torch.full_like(x, 1 / 3)), series(),
    ),
    "logarithms over time to a divergence": lambda: judged(
        Does(lambda m, x: m[0](x).squeeze(2).log_softmax(1), nn.Linear(8, 1)),
        lambda x, _: divergence(x, torch.full_like(x, 1 / 6)), series(),
    ),
    "probabilities of yes": lambda: judged(
        ending(nn.Sigmoid(), 1), flat(functional.binary_cross_entropy), yes_or_no()
    ),
    "scaled tanh": lambda: judged(
        Does(lambda m, x: 10 * m[0](x).tanh(), mlp()), CE
    ),
    "probabilities to squares": lambda: judged(ending(nn.Softmax(1)), hot(MSE)),
    "targets in reach": lambda: judged(ending(nn.Tanh(), 1), flat(MSE), values(scale=0.3)),
    "outliers out of reach": lambda: judged(ending(nn.ReLU(), 1), flat(MSE), values(2.5)),
    "a teacher": lambda: judged(mlp(), lambda x, y: CE(x, y) + CE(x.detach().softmax(1), y)),
}  # fmt: skip


@pytest.mark.parametrize("kind", RIGHT)
def test_what_a_loss_takes_is_not_spoken_of(kind: str) -> None:
    assert RIGHT[kind]() == []


class Sometimes(Plain):
    """Is given probabilities in its first step alone."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss."""
        x = self(batch[0])
        return CE(x if batch_idx else x.softmax(1), batch[1])


def test_what_does_not_show_again_is_no_finding() -> None:
    assert OutputActivationMismatch()(subject(Sometimes(mlp()), table())) == []


def test_rows_are_counted_in_any_precision() -> None:
    x = torch.randn(64, 1000, generator=torch.Generator().manual_seed(0))
    assert distribution_shares(x.softmax(1).bfloat16(), 1)[0] == 1.0
    assert distribution_shares(x.log_softmax(1).half(), 1)[1] == 1.0
    assert distribution_shares(x, 1) == (0.0, 0.0)
    assert distribution_shares(x[:, :1], 1) == (0.0, 0.0)


def test_thresholds_are_those_of_the_rule_with_the_same_code() -> None:
    check, judge = OutputActivationMismatch(), rule.OutputActivationMismatch()
    for name in ("code", "rows", "unreachable", "bad_unreachable", "records"):
        assert getattr(check, name) == getattr(judge, name)
