"""Checks of labels: which classes there are, where, and how often."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from checks.sick_data import by_class, counted, train_on
from checks.subjects import SAMPLES, Adversaries, Pair, Plain, Tokens, labels, loader, mlp, numbers
from checks.test_inputs import judged, reason, said
from lightning_diag.checks.class_imbalance import ClassImbalance
from lightning_diag.checks.label_out_of_range import LabelOutOfRange
from lightning_diag.checks.unseen_class import UnseenClass, absent_by_chance
from lightning_diag.checks.unstratified_split import UnstratifiedSplit, chance_of

X = numbers(SAMPLES, 8)
Y = labels()


def pair(y: Tensor, loss: Any = functional.cross_entropy, net: nn.Module | None = None) -> Pair:
    """Return a classifier of three classes and its loader."""
    return Plain(net or mlp(), loss), loader(numbers(len(y), 8), y)


# -- label-out-of-range ------------------------------------------------------------------------


def test_labels_from_one_on_are_out_of_range() -> None:
    text = said(LabelOutOfRange(), pair(Y + 1))
    assert text.startswith("bad: At `cross_entropy`")
    assert "0 to 2, that the output has: 3 is among them" in text


def test_one_label_far_behind_is_found_before_training_comes_to_it() -> None:
    y = labels(samples=512)
    y[301] = -1
    assert "1 of 512 targets of 512 samples of training" in said(LabelOutOfRange(), pair(y))


def test_labels_of_validation_are_looked_at() -> None:
    y = Y.clone()
    y[7] = 5
    both = Plain(mlp()), (loader(X, Y), loader(X, y))
    assert "samples of validation" in said(LabelOutOfRange(), both)


@pytest.mark.parametrize("ignored", [-100, -1, 255])
def test_targets_that_do_not_count_may_be_anything(ignored: int) -> None:
    y = Y.clone()
    y[::3] = ignored
    loss = nn.CrossEntropyLoss(ignore_index=ignored)
    assert judged(LabelOutOfRange(), pair(y, loss)) == []


def test_shares_for_each_class_are_no_indices() -> None:
    shares = functional.one_hot(Y, 3).float()
    assert "no loss was seen that takes the index" in reason(LabelOutOfRange(), pair(shares))


def test_labels_as_floats_are_bad() -> None:
    text = said(LabelOutOfRange(), pair(Y.float()))
    assert "targets of shape (16,) are float32" in text


def test_words_of_a_sequence_are_looked_at() -> None:
    drawn = torch.randint(0, 20, (SAMPLES, 7), generator=torch.Generator().manual_seed(2))
    assert judged(LabelOutOfRange(), (Plain(Tokens()), loader(drawn[:, :-1], drawn[:, 1:]))) == []
    drawn[:, -1] = 20
    words = Plain(Tokens()), loader(drawn[:, :-1], drawn[:, 1:])
    assert "none of the 20 classes" in said(LabelOutOfRange(), words)


def test_without_classes_nothing_is_judged() -> None:
    regression = Plain(mlp(1), functional.mse_loss), loader(X, X[:, :1])
    assert "no loss was seen" in reason(LabelOutOfRange(), regression)
    assert "no loss was seen" in reason(ClassImbalance(), (Adversaries(), loader(X)))


# -- unseen-class, unstratified-split ----------------------------------------------------------


def test_a_class_that_training_lacks_is_suspect() -> None:
    """T6."""
    text = said(UnseenClass(), by_class(counted(100, 100), counted(20, 20, 10)))
    assert text.startswith("suspect: 10 of 50 samples of validation are of class `2`")


def test_a_class_of_one_sample_may_be_missed_by_chance() -> None:
    text = said(UnseenClass(), by_class(counted(100, 100), counted(20, 20, 1)))
    assert text.startswith("note")


def test_a_class_that_only_training_has_is_well() -> None:
    assert judged(UnseenClass(), by_class(counted(50, 50, 1), counted(20, 20))) == []


def test_of_large_data_a_rare_class_may_be_among_those_not_read() -> None:
    train, held = counted(5000, 5000, 0), counted(90, 90, 1)
    assert judged(UnseenClass(), by_class(train, held)) == []
    assert judged(UnseenClass(), by_class(train, counted(50, 50, 50))) != []


def test_absence_by_chance_agrees_with_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([torch.randperm(20, generator=generator)[:8] for _ in range(4000)])
    # both of samples 0 and 1 are among the eight of validation
    share = ((draws < 2).sum(1) == 2).double().mean()
    assert float(share) == pytest.approx(absent_by_chance(2, 8, 12), abs=0.02)


def test_other_shares_are_suspect_and_a_balanced_validation_is_a_note() -> None:
    """T6."""
    uneven = by_class(counted(200, 50, 50), counted(40, 40, 120))
    assert said(UnstratifiedSplit(), uneven).startswith("suspect")
    balanced = by_class(counted(200, 20, 20), counted(60, 60, 60))
    assert said(UnstratifiedSplit(), balanced).startswith("note")


@pytest.mark.parametrize("seed", range(5))
def test_a_split_that_is_drawn_is_well(seed: int) -> None:
    y = counted(150, 60, 30)[torch.randperm(240, generator=torch.Generator().manual_seed(seed))]
    assert judged(UnstratifiedSplit(), by_class(y[:160], y[160:])) == []


def test_the_test_of_shares_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    table = torch.tensor([[50.0, 30.0, 20.0], [40.0, 50.0, 30.0]])
    expected = stats.chi2_contingency(table.numpy(), correction=False).pvalue
    assert chance_of(*table) == pytest.approx(expected, rel=1e-6)


def test_the_test_of_shares_is_right_by_chance_as_often_as_it_says() -> None:
    torch.manual_seed(0)
    shares = torch.tensor([0.5, 0.3, 0.15, 0.04, 0.01])
    draws = torch.distributions.Multinomial(200, shares).sample((2, 400))
    p = torch.tensor([chance_of(one, other) for one, other in zip(*draws, strict=True)])
    assert float((p < 0.05).double().mean()) == pytest.approx(0.05, abs=0.03)


# -- class-imbalance ---------------------------------------------------------------------------


def test_extreme_imbalance_is_a_note() -> None:
    assert said(ClassImbalance(), pair(counted(800, 100, 10))).startswith("note")
    assert judged(ClassImbalance(), pair(counted(790, 100, 10))) == []


def test_imbalance_that_is_met_is_well() -> None:
    y = counted(800, 100, 8)
    weights = torch.tensor([1.0, 8.0, 100.0])
    assert judged(ClassImbalance(), pair(y, nn.CrossEntropyLoss(weight=weights))) == []
    sampler = WeightedRandomSampler(weights[y].tolist(), len(y))
    data = DataLoader(TensorDataset(numbers(len(y), 8), y), 16, sampler=sampler)
    assert judged(ClassImbalance(), (Plain(mlp()), data)) == []


def test_labels_that_are_all_alike_are_suspect() -> None:
    assert "there is nothing to learn" in said(ClassImbalance(), pair(counted(0, 80)))
    assert judged(ClassImbalance(), pair(counted(0, 79))) == []


def test_yes_or_no_are_two_classes() -> None:
    y = counted(400, 4).float()[:, None]
    rare = pair(y, functional.binary_cross_entropy_with_logits, mlp(1))
    assert "100 times as frequent" in said(ClassImbalance(), rare)


def test_pixels_are_not_counted_as_samples() -> None:
    net = nn.Sequential(nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 3, 1))
    module = Plain(net), loader(X, torch.zeros(SAMPLES, 8).long())
    assert "one class for each sample" in reason(ClassImbalance(), module)


def test_labels_that_are_made_in_the_step_are_not_known() -> None:
    made = Plain(mlp(), lambda x, y: functional.cross_entropy(x, x.argmax(1).roll(1)))
    assert "one class for each sample" in reason(ClassImbalance(), (made, train_on(X)[1]))
