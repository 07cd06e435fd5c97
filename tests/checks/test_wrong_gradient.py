"""Gradients of a whole step against differences of its loss, on a copy in float64 (C4)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from checks import functions
from checks.functions import RIGHT, WRONG, Matrix, Teacher, Through
from checks.subjects import HEALTHY, Pair, Plain, made, mlp, table
from lightning_diag.before_training import subject
from lightning_diag.checks.wrong_gradient import WrongGradient
from lightning_diag.finding import Finding, NotObserved


def verdict(pair: Callable[[], Pair], **thresholds: Any) -> list[Finding] | NotObserved:
    module, data = made(pair)
    return WrongGradient(**thresholds)(subject(module, data))


def found(pair: Callable[[], Pair]) -> Finding:
    said = verdict(pair)
    assert isinstance(said, list)
    (finding,) = said
    return finding


@pytest.mark.parametrize("between", RIGHT)
def test_what_is_right_or_meant_is_not_spoken_of(between: str) -> None:
    """Detached branches, estimators, reversed gradients, lower precision, noise, checkpoints."""
    assert verdict(lambda: (Plain(Through(RIGHT[between])), table())) == []


@pytest.mark.parametrize("between", WRONG)
def test_a_wrong_backward_is_named_with_the_parameters_behind_it(between: str) -> None:
    finding = found(lambda: (Plain(Through(WRONG[between])), table()))
    assert finding.severity == "bad"
    assert finding.places[0] in ("Halved", "Turned", "Masked")
    assert {"net.first.weight"} <= set(finding.places) <= {
        finding.places[0], "net.first.weight", "net.first.bias"}  # fmt: skip


def test_the_factor_that_is_missing_is_told() -> None:
    finding = found(lambda: (Plain(Through(WRONG["factor"])), table()))
    assert "0.5 times what it should be" in finding.message
    assert finding.evidence.value == pytest.approx(0.5, rel=1e-3)


def test_a_transposed_gradient_is_found_and_the_right_one_is_not() -> None:
    assert verdict(lambda: (Plain(Matrix(functions.Layer)), table())) == []
    assert found(lambda: (Plain(Matrix(functions.Transposed)), table())).places == (
        "Transposed", "net.weight")  # fmt: skip


def test_a_clamp_that_is_passed_straight_through_is_a_note() -> None:
    """It may be meant, or a mask may have been forgotten."""
    finding = found(lambda: (Plain(Through(functions.Clamped.apply)), table()))
    assert finding.severity == "note"


def test_estimators_do_not_hide_a_wrong_backward_elsewhere() -> None:
    def between(x: Tensor) -> Tensor:
        return functions.run(functions.Halved, functions.run(functions.Rounded, x))

    assert found(lambda: (Plain(Through(between)), table())).places[0] == "Halved"


def test_what_autograd_is_not_told_is_held_still() -> None:
    """Targets of its own, slow copies, running means, numbers from `item`, straight-through."""
    assert verdict(lambda: (Teacher(mlp()), table())) == []


def test_writing_behind_the_back_of_autograd_is_suspect() -> None:
    finding = found(lambda: (functions.Written(mlp()), table()))
    assert finding.severity == "suspect"
    assert "in place" in finding.message


@pytest.mark.parametrize("kind", ["cnn", "gru", "frozen backbone", "smoothed"])
def test_a_healthy_module_is_right(kind: str) -> None:
    assert verdict(HEALTHY[kind]) == []


class Sparse(nn.Module):
    """An embedding with sparse gradients, under batch norm with a bias before it."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 8, sparse=True)
        self.layer, self.norm = nn.Linear(8, 6), nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        words = self.words((x.abs() * 10).long().clamp(max=49)).mean(1)
        out: Tensor = self.head(functional.relu(self.norm(self.layer(words))))
        return out


def test_sparse_gradients_and_norms_are_looked_at() -> None:
    assert verdict(lambda: (Plain(Sparse()), table()), burn_in=0) == []


CALLS = itertools.count(1)


class Restless(Plain):
    """Has another loss each time, whatever the random state."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return a loss that grows."""
        return super().training_step(batch, batch_idx) * next(CALLS)


class Normalised(Plain):
    """Changes its weights before it uses them."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return a loss of weights of norm 1."""
        self.net[0].weight.data = functional.normalize(self.net[0].weight.data + 0.1)
        return super().training_step(batch, batch_idx)


class Typed(nn.Module):
    """Works in float32 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        if x.dtype is not torch.float32:
            raise RuntimeError("float32 only")
        out: Tensor = self.net(x)
        return out


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (lambda: (Restless(mlp()), table()), "the loss of the same weights and samples is not"),
        (lambda: (Normalised(mlp()), table()), "`training_step` changes `net.0.weight` itself"),
        (lambda: (Plain(Typed()), table()), "`training_step` failed on a copy of the module"),
        (HEALTHY["gan"], "`training_step` takes its steps itself"),
    ],
)
def test_what_cannot_be_compared_is_not_observed(pair: Callable[[], Pair], reason: str) -> None:
    said = verdict(pair)
    assert isinstance(said, NotObserved)
    assert said.reason.startswith(reason)


def test_without_time_nothing_is_said_to_be_right() -> None:
    """One element is compared all the same, and that is told."""
    assert verdict(HEALTHY["mlp"], seconds=0.0) == []


def test_the_user_s_functions_are_as_before() -> None:
    before = dict(vars(functions.Halved)), dict(vars(functions.Squared))
    verdict(lambda: (Plain(Through(functions.Halved.apply)), table()))
    assert (dict(vars(functions.Halved)), dict(vars(functions.Squared))) == before
    assert torch.get_default_dtype() is torch.float32
