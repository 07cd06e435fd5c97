"""The first loss is compared with that of an answer without knowledge, of the same call (C1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from checks.subjects import Plain, labels, loader, made, mlp, numbers
from lightning_diag.before_training import subject
from lightning_diag.checks.initial_loss import InitialLoss, again, blank_answer
from lightning_diag.checks.losses import LossCatch
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.rules import initial_loss as rule

Y = labels(4, 12)
WEIGHT = torch.tensor([1.0, 2.0, 3.0, 4.0])


def blank(function: Callable[..., Tensor], x: Tensor, y: Tensor, **given: Any) -> float:
    """Return the loss of an answer without knowledge, in the same call."""
    with LossCatch({}) as catch:
        function(x.requires_grad_(), y, **given)
    answer = blank_answer(catch.seen[0])
    assert answer is not None
    return again(catch.seen[0], answer[0])


@pytest.mark.parametrize(
    ("function", "given"),
    [
        (functional.cross_entropy, {}),
        (functional.cross_entropy, {"reduction": "sum"}),
        (functional.cross_entropy, {"reduction": "none"}),
        (functional.cross_entropy, {"weight": WEIGHT}),
        (functional.cross_entropy, {"label_smoothing": 0.2}),
        (functional.cross_entropy, {"ignore_index": 2}),
        (functional.nll_loss, {}),
    ],
)
def test_a_cross_entropy_over_four_classes_begins_at_the_logarithm_of_four(
    function: Callable[..., Tensor], given: dict[str, Any]
) -> None:
    assert blank(function, numbers(12, 4), Y, **given) == pytest.approx(math.log(4))


def test_weights_and_smoothing_together_are_those_of_torch() -> None:
    """Then it is (0.8 + 0.2 * sum of weights / (C * mean weight of the targets)) ln C."""
    found = blank(functional.cross_entropy, numbers(12, 4), Y, weight=WEIGHT, label_smoothing=0.2)
    share = 0.8 + 0.2 * WEIGHT.sum().item() / (4 * WEIGHT[Y].mean().item())
    assert found == pytest.approx(share * math.log(4))


@pytest.mark.parametrize(
    ("function", "x", "y", "expected"),
    [
        (functional.multi_margin_loss, numbers(12, 4), Y, 3 / 4),
        (functional.binary_cross_entropy_with_logits, numbers(12), (Y > 1).float(), math.log(2)),
        (functional.binary_cross_entropy, torch.full((12,), 0.9), (Y > 1).float(), math.log(2)),
        (functional.soft_margin_loss, numbers(12), (Y > 1).float() * 2 - 1, math.log(2)),
        (functional.mse_loss, numbers(4), torch.tensor([0.0, 2.0, 4.0, 6.0]), 5.0),
        (functional.l1_loss, numbers(4), torch.tensor([0.0, 2.0, 4.0, 6.0]), 2.0),
    ],
)
def test_other_losses_begin_where_they_are_known_to(
    function: Callable[..., Tensor], x: Tensor, y: Tensor, expected: float
) -> None:
    assert blank(function, x.clone(), y) == pytest.approx(expected)


def test_a_loss_of_another_kind_has_no_known_beginning() -> None:
    with LossCatch({}) as catch:
        one, two, three = (numbers(2, 3, seed=i).requires_grad_() for i in range(3))
        functional.triplet_margin_loss(one, two, three)
    assert blank_answer(catch.seen[0]) is None


class Scaled(nn.Module):
    """A network whose output is as large as wanted."""

    def __init__(self, scale: float, outputs: int = 3) -> None:
        super().__init__()
        self.net = mlp(outputs)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Return scores whose largest is about `scale`."""
        out: Tensor = self.net(x)
        return self.scale * out / out.detach().abs().max()


def judged(
    net: nn.Module, loss: Any = functional.cross_entropy, y: Tensor | None = None
) -> list[Finding] | NotObserved:
    data = loader(numbers(64, 8), labels() if y is None else y, batch_size=64)
    module, data = made(lambda: (Plain(net, loss), data))
    return InitialLoss()(subject(module, data))


def test_it_counts_from_twice_the_expected_loss_and_a_half_on() -> None:
    torch.manual_seed(0)
    assert judged(Scaled(4.0)) == []
    found = judged(Scaled(30.0))
    assert isinstance(found, list)
    (finding,) = found
    assert finding.evidence.threshold == pytest.approx(2 * math.log(3) + 0.5)
    assert finding.places == ("cross_entropy#0",)


def test_sums_are_compared_with_sums() -> None:
    torch.manual_seed(0)
    assert judged(Scaled(1.0), lambda x, y: functional.cross_entropy(x, y, reduction="sum")) == []


def test_one_class_alone_needs_twice_as_much() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(Scaled(0.01), Shifted(3.4))
    alone = judged(net, y=torch.zeros(64).long())
    assert alone == []
    mixed = torch.where(torch.arange(64) % 4 == 0, 1, 0)
    assert judged(net, y=mixed) != []


class Shifted(nn.Module):
    """Raises the scores of all classes but the first."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        """Return the shifted scores."""
        return x + torch.tensor([0.0, self.by, self.by])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_targets_of_any_scale_are_no_finding(scale: float) -> None:
    """What is amiss are the targets then, of which a rule tells."""
    y = scale * (numbers(64, seed=9) + 5)
    assert judged(mlp(1), lambda x, y: functional.mse_loss(x.squeeze(1), y), y) == []


def test_predictions_that_are_too_large_are_found() -> None:
    torch.manual_seed(0)
    y = numbers(64, seed=9)
    found = judged(Scaled(50.0, 1), lambda x, y: functional.mse_loss(x.squeeze(1), y), y)
    assert isinstance(found, list)
    assert found


def test_a_loss_that_is_handwritten_is_not_observed() -> None:
    verdict = judged(mlp(), lambda x, y: -x.log_softmax(1)[range(len(y)), y].mean())
    assert isinstance(verdict, NotObserved)
    assert verdict.reason == "no call of a loss function of torch was seen in `training_step`"


def test_a_teacher_is_not_judged() -> None:
    """What no gradient flows through is not trained."""
    verdict = judged(mlp(), lambda x, y: functional.cross_entropy(x.detach() * 100, y) + x.sum())
    assert isinstance(verdict, NotObserved)


def test_thresholds_are_those_of_the_rule_with_the_same_code() -> None:
    check, judge = InitialLoss(), rule.InitialLoss()
    assert (check.code, check.factor, check.margin) == (judge.code, judge.factor, judge.margin)
