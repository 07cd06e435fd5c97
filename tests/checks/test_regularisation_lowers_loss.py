"""A penalty is what is left of the loss without its loss functions, and must not fall (C2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from checks.functions import Penalised
from checks.subjects import HEALTHY, Pair, made, table
from lightning_diag.before_training import subject
from lightning_diag.checks.regularisation_lowers_loss import RegularisationLowersLoss, _Rest
from lightning_diag.finding import Finding, NotObserved


def verdict(pair: Callable[[], Pair]) -> list[Finding] | NotObserved:
    module, data = made(pair)
    return RegularisationLowersLoss()(subject(module, data))


class Other(Penalised):
    """Adds anything else."""

    def __init__(self, penalty: Callable[[Any, Any], Any]) -> None:
        super().__init__(0.0)
        self.other = penalty

    def penalty(self, batch: Any) -> Any:
        """Return what is added."""
        return self.other(self.net, batch)


def _orthogonality(net: Any, batch: Any) -> Tensor:
    weight = net[2].weight
    penalty: Tensor = (weight @ weight.t() - torch.eye(16)).square().sum()
    return penalty


def test_a_negative_coefficient_is_found_with_the_weights_in_it() -> None:
    said = verdict(lambda: (Penalised(-1e-4), table()))
    assert isinstance(said, list)
    (finding,) = said
    assert finding.severity == "bad"
    assert finding.places == ("net.0.weight", "net.2.weight", "net.4.weight")
    assert finding.evidence.value < finding.evidence.threshold < 0


@pytest.mark.parametrize(
    "penalty",
    [
        lambda net, batch: 0.01 * net[0].weight.square().sum(),
        lambda net, batch: 0.01 * net[0].weight.abs().sum(),
        lambda net, batch: 0.01 * net[0].weight.norm(dim=1).sum(),
        _orthogonality,
        lambda net, batch: -torch.logdet(net[2].weight @ net[2].weight.t()),
        lambda net, batch: (net[0].weight.norm() - 9) ** 2,
    ],
)  # fmt: skip
def test_penalties_of_many_kinds_are_not_spoken_of(penalty: Callable[[Any, Any], Any]) -> None:
    assert verdict(lambda: (Other(penalty), table())) == []


@pytest.mark.parametrize(
    ("penalty", "reason"),
    [
        (lambda net, batch: 0.0, "no term of the loss depends on the weights alone"),
        (lambda net, batch: 1.0, "no term of the loss depends on the weights alone"),
        (lambda net, batch: -net[0].bias.square().sum(), "no term of the loss depends on the"),
        (lambda net, batch: -net(batch[0]).square().mean(), "what is added to the loss depends"),
        (lambda net, batch: -net[0].weight.sum(), "what is added to the loss changes with the"),
    ],
)
def test_what_is_no_penalty_is_not_observed(
    penalty: Callable[[Any, Any], Any], reason: str
) -> None:
    said = verdict(lambda: (Other(penalty), table()))
    assert isinstance(said, NotObserved)
    assert said.reason.startswith(reason)


@pytest.mark.parametrize("kind", ["mlp", "gan", "two loaders"])
def test_a_loss_without_a_penalty_is_not_observed(kind: str) -> None:
    assert isinstance(verdict(HEALTHY[kind]), NotObserved)


def test_weights_are_as_before_after_each_multiplication() -> None:
    module, data = made(lambda: (Penalised(-0.01), table()))
    twin = subject(module, data).copy()
    before = [p.clone() for p in twin.module.parameters()]
    rest = _Rest(twin)
    one = rest(next(iter(data)))
    weights = {"net.0.weight": twin.module.net[0].weight}
    assert rest.scaled(next(iter(data)), weights, 3.0) < one
    assert all(torch.equal(p, q) for p, q in zip(twin.module.parameters(), before, strict=True))
