"""A loss that fits its targets, and is used as it is meant to be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from checks.sick_outputs import unheard
from checks.subjects import Adversaries, Plain, labels, loader, made, mlp, numbers, table
from lightning_diag.before_training import subject
from lightning_diag.checks.handwritten import Differences
from lightning_diag.checks.loss_mismatch import LossMismatch
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.rules import loss_mismatch as rule

Loss = Callable[..., Tensor]
CE, MSE = functional.cross_entropy, functional.mse_loss
LOGITS = functional.binary_cross_entropy_with_logits


def sgd(parameters: Any) -> Any:
    """Return plain gradient descent."""
    return torch.optim.SGD(parameters, lr=0.1)


def judged(
    loss: Loss, y: Tensor | None = None, *, outputs: int = 1, **options: Any
) -> list[Finding] | NotObserved:
    """Return what the check says of a loss on targets, by default standard normal ones."""
    given = {"optimizer": sgd, "size": 16, **options}
    x = numbers(64, 8)
    data = loader(x, x[:, 0] if y is None else y, batch_size=given["size"])
    pair = made(lambda: (Plain(mlp(outputs), loss, given["optimizer"]), data))
    return LossMismatch()(subject(*pair))


def the(found: list[Finding] | NotObserved) -> Finding:
    """Return the only finding."""
    assert isinstance(found, list)
    (finding,) = found
    return finding


def flat(loss: Loss) -> Loss:
    """Return a loss of one output a sample."""
    return lambda x, y: loss(x.squeeze(1), y)


# --- broadcast ---


@pytest.mark.parametrize(
    "loss", [MSE, functional.l1_loss, functional.smooth_l1_loss, functional.huber_loss]
)
def test_a_column_against_a_row_is_found(loss: Loss) -> None:
    finding = the(judged(unheard(loss)))
    assert finding.severity == "bad"
    assert "predictions of shape (16, 1) with targets of shape (16,)" in finding.message


def test_equal_shapes_are_no_finding() -> None:
    assert judged(flat(MSE)) == []
    assert judged(MSE, numbers(64, 1)) == []


def test_all_pairs_in_as_many_dimensions_may_be_meant() -> None:
    assert judged(unheard(lambda x, y: MSE(x, y[None]))) == []


def test_a_column_against_a_row_is_found_where_it_is_written_by_hand() -> None:
    for loss in (lambda x, y: (x - y).pow(2).mean(), lambda x, y: y.sub(x).abs().mean()):
        finding = the(judged(loss))
        assert finding.severity == "bad"
        assert finding.message.startswith("The loss compares predictions of shape (16, 1)")


def test_a_loss_by_hand_that_fits_is_not_observed() -> None:
    found = judged(lambda x, y: (x.squeeze(1) - y).pow(2).mean())
    assert isinstance(found, NotObserved)


def test_a_column_against_what_is_no_target_may_be_meant() -> None:
    """Centres of a radial basis, and as many of them as samples."""
    x, centres, y = torch.zeros(4, 1, requires_grad=True), torch.zeros(4), torch.zeros(4)
    with Differences((y,)) as seen:
        _ = x - centres, x - y[None], y[:, None] - y, x.detach() - y
    assert seen.broadcast is None
    with seen:
        _ = y - x
    assert seen.broadcast == ((4, 1), (4,))


# --- sign ---


def test_a_loss_that_is_maximised_is_found() -> None:
    finding = the(judged(lambda x, y: -CE(x, y), labels(), outputs=3))
    assert finding.severity == "bad"
    assert "its negative, so that the network learns to be wrong" in finding.message


def test_a_loss_that_is_subtracted_from_another_is_no_finding() -> None:
    """As of an entropy that is kept high."""
    assert judged(lambda x, y: CE(x, y) - 3 * CE(x, y.flip(0)), labels(), outputs=3) == []


def test_players_may_maximise() -> None:
    module, data = made(lambda: (Adversaries(), table()))
    assert LossMismatch()(subject(module, data)) == []


@pytest.mark.parametrize("target", [-1.0, 2.0])
def test_labels_outside_of_yes_and_no_are_found(target: float) -> None:
    finding = the(judged(flat(LOGITS), torch.where(labels() > 1, target, 0.0)))
    assert finding.severity == "bad"
    assert "some that lie 1 outside" in finding.message


def test_smoothed_labels_and_those_that_are_masked_are_no_finding() -> None:
    assert judged(flat(LOGITS), torch.where(labels() > 1, 1.1, -0.1)) == []

    def masked(x: Tensor, y: Tensor) -> Tensor:
        return (LOGITS(x, y, reduction="none") * (y >= 0)).mean()

    assert judged(flat(masked), torch.where(labels() > 1, 1.0, -1.0)) == []


def test_a_loss_below_zero_is_found() -> None:
    def soft(x: Tensor, y: Tensor) -> Tensor:
        return CE(x, -functional.one_hot(y, 3).float())

    finding = the(judged(soft, labels(), outputs=3))
    assert finding.severity == "bad"
    assert "least: 0" in finding.message


def test_a_loss_of_zero_but_for_rounding_is_no_finding() -> None:
    def same(x: Tensor, _: Tensor) -> Tensor:
        logs = x.log_softmax(1)
        return functional.kl_div(logs, logs.detach().exp() * (1 + 1e-7), reduction="batchmean")

    assert judged(same, outputs=3) == []


# --- classes as quantities ---


def _numbers(x: Tensor, y: Tensor) -> Tensor:
    return MSE(x.squeeze(1), y.float())


def test_class_numbers_are_found_however_small_the_batch() -> None:
    for size in (64, 4):
        finding = the(judged(_numbers, labels(5), size=size))
        assert finding.severity == "suspect"
        assert "numbers of 5 classes" in finding.message


@pytest.mark.parametrize(
    "y",
    [
        labels(2),
        labels(5) + 1,
        labels(5) / 2,
        torch.poisson(torch.full((64,), 2.0), torch.Generator().manual_seed(0)),
        torch.where(labels(8) == 7, labels(40), 0),
    ],
    ids=["two", "ratings", "halves", "counts", "rare"],
)
def test_numbers_that_are_no_classes_are_no_finding(y: Tensor) -> None:
    assert judged(_numbers, y) == []


# --- sums ---


def _sum(x: Tensor, y: Tensor) -> Tensor:
    return CE(x, y, reduction="sum")


def test_a_sum_is_a_note_with_what_the_learning_rate_comes_to() -> None:
    finding = the(judged(_sum, labels(), outputs=3))
    assert finding.severity == "note"
    assert "a learning rate of 0.1 does here what 1.6 does with their mean" in finding.message
    assert finding.evidence.value == pytest.approx(16)


def test_sums_of_elements_count_them_all() -> None:
    finding = the(judged(lambda x, y: MSE(x, y, reduction="sum"), numbers(64, 3), outputs=3))
    assert "adds up 48 losses of 16 samples" in finding.message


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (_sum, {"optimizer": lambda p: torch.optim.Adam(p, 1e-3)}),
        (_sum, {"size": 1}),
        (lambda x, y: _sum(x, y) / len(x), {}),
        (lambda x, y: CE(x, y, reduction="none").mean(), {}),
    ],
    ids=["adaptive", "one sample", "divided", "none"],
)
def test_sums_that_do_no_harm_are_not_spoken_of(loss: Loss, options: dict[str, Any]) -> None:
    assert judged(loss, labels(), outputs=3, **options) == []


def test_thresholds_are_those_of_the_rule_with_the_same_code() -> None:
    check, judge = LossMismatch(), rule.LossMismatch()
    for name in ("code", "beyond", "evenness", "classes", "records"):
        assert getattr(check, name) == getattr(judge, name)


def test_networks_are_not_asked_for_more_than_they_give() -> None:
    """A loss without a target, of embeddings that are compared."""
    net = nn.Linear(8, 4)

    def triplet(x: Tensor, _: Tensor) -> Tensor:
        return functional.triplet_margin_loss(x, x.roll(1, 0), x.roll(2, 0))

    assert LossMismatch()(subject(Plain(net, triplet), table())) == []
