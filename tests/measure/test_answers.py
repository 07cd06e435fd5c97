"""Answers and margins of samples against a slow reference, and lists that they make (W13)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_diag.measure.answers import answers
from lightning_diag.measure.base import LossCall
from lightning_diag.measure.ranking import Ranked
from lightning_diag.measure.sample_loss import sample_losses

X = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)) * 3
Y = torch.randint(5, (40,), generator=torch.Generator().manual_seed(1))


def called(function: str, x: Tensor, target: Tensor, **more: Any) -> LossCall:
    return LossCall(f"{function}#0", function, "loss", 1, x, None, target=target, **more)


def by_hand(chances: list[float], label: int) -> tuple[int, float, float]:
    """Return answer, its probability and the margin of the label."""
    best = max(range(len(chances)), key=chances.__getitem__)
    other = max(chance for i, chance in enumerate(chances) if i != label)
    return best, chances[best], chances[label] - other


@pytest.mark.parametrize("form", ["logits", "log probabilities", "soft labels", "bfloat16"])
def test_margins_of_classes_are_those_computed_by_hand(form: str) -> None:
    x, y, function = X, Y, "cross_entropy"
    if form == "log probabilities":
        x, function = X.log_softmax(1), "nll_loss"
    if form == "soft labels":
        y = torch.nn.functional.one_hot(Y, 5) * 0.9 + 0.02
    if form == "bfloat16":
        x = X.bfloat16()
    found = answers(called(function, x, y))
    assert found is not None
    chances = (x.exp() if function == "nll_loss" else x.float().softmax(1)).tolist()
    for i, row in enumerate(chances):
        best, sure, margin = by_hand(row, int(Y[i]))
        assert (int(found.given[i]), int(found.predicted[i])) == (int(Y[i]), best)
        assert float(found.sure[i]) == pytest.approx(sure, abs=1e-6)
        assert float(found.margin[i]) == pytest.approx(margin, abs=1e-6)


@pytest.mark.parametrize("shape", [(40,), (40, 1)])
@pytest.mark.parametrize("function", ["", "_with_logits"])
def test_margins_of_yes_or_no_are_those_of_two_classes(
    shape: tuple[int, ...], function: str
) -> None:
    logit, label = X[:, 0], (Y > 2).float()
    x = logit if function else logit.sigmoid()
    found = answers(
        called(f"binary_cross_entropy{function}", x.reshape(shape), label.reshape(shape))
    )
    assert found is not None
    for i, value in enumerate(logit.tolist()):
        chance = 1 / (1 + math.exp(-value))
        best, sure, margin = by_hand([1 - chance, chance], int(label[i]))
        assert (int(found.given[i]), int(found.predicted[i])) == (int(label[i]), best)
        assert float(found.sure[i]) == pytest.approx(sure, abs=1e-5)
        assert float(found.margin[i]) == pytest.approx(margin, abs=1e-5)


def test_what_is_ignored_has_no_label() -> None:
    y = Y.clone()
    y[3] = -100
    found = answers(called("cross_entropy", X, y))
    assert found is not None
    assert found.given.tolist() == [*Y[:3].tolist(), -1, *Y[4:].tolist()]


@pytest.mark.parametrize(
    ("function", "x", "y"),
    [
        ("cross_entropy", torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.int64)),
        ("binary_cross_entropy_with_logits", torch.zeros(2, 4), torch.zeros(2, 4)),
        ("mse_loss", torch.zeros(4), torch.zeros(4)),
        ("cross_entropy", torch.zeros(3), torch.zeros(3)),
    ],
)
def test_samples_of_many_classes_or_none_have_no_answer(
    function: str, x: Tensor, y: Tensor
) -> None:
    """Pixels, several labels at once, regression, a single sample without a batch."""
    assert answers(called(function, x, y)) is None


def test_mistakes_are_ranked_by_how_sure_the_answer_is_and_classes_by_their_loss() -> None:
    call = called("cross_entropy", X, Y)
    losses = sample_losses(call)
    assert losses is not None
    ranked = Ranked(call, losses)
    mistakes, of_two = ranked.mistakes(), ranked.of_class(2)
    assert mistakes is not None
    assert of_two is not None
    for i, row in enumerate(X.softmax(1).tolist()):
        best, sure, _ = by_hand(row, int(Y[i]))
        expected = sure if best != int(Y[i]) else -math.inf
        assert float(mistakes[i]) == pytest.approx(expected, abs=1e-6)
        expected = float(losses.losses[i]) if Y[i] == 2 else -math.inf
        assert float(of_two[i]) == pytest.approx(expected)
    assert ranked.classes == 5
