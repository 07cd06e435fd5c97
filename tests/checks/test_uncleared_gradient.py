"""Gradients of one step must not be part of the next."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from checks.sick_outputs import Manual
from checks.subjects import Adversaries, Plain, made, mlp, table
from lightning_diag.before_training import subject
from lightning_diag.checks.uncleared_gradient import UnclearedGradient
from lightning_diag.finding import Finding, NotObserved


def judged(module: Any) -> list[Finding] | NotObserved:
    """Return what the check says."""
    return UnclearedGradient()(subject(*made(lambda: (module, table()))))


def test_gradients_that_are_never_cleared_are_found() -> None:
    found = judged(Manual(clears=False))
    assert isinstance(found, list)
    (finding,) = found
    assert finding.severity == "bad"
    assert "3 of 4 steps of optimizer 0" in finding.message
    assert set(finding.places) == {name for name, _ in Manual().named_parameters()}


@pytest.mark.parametrize(
    "module",
    [Manual(), Manual(every=2), Adversaries(), Adversaries(every=2), Plain(mlp())],
    ids=["cleared", "accumulated", "players", "players of unlike pace", "automatic"],
)
def test_gradients_that_are_cleared_in_time_are_no_finding(module: Any) -> None:
    assert judged(module) == []


class Begins(Manual):
    """Clears gradients by hand, just before the backward pass."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Set them to None, or to zero, in turns."""
        for parameter in self.parameters():
            parameter.grad = None if batch_idx % 2 else torch.zeros_like(parameter)
        return super().training_step(batch, batch_idx)


def test_however_they_are_cleared() -> None:
    assert judged(Begins(clears=False)) == []


class Stray(Plain):
    """Goes back through the judge for the sake of the generator, and clears it afterwards."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Leave gradients behind, and clear them before those of the step."""
        optimizer: Any = self.optimizers()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.zero_grad()
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        optimizer.step()
        return loss


def test_gradients_that_no_step_takes_are_no_finding() -> None:
    assert judged(Stray()) == []
