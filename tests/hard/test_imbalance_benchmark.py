"""The draws and the arithmetic of the comparison on imbalanced digits."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

# the benchmark is a folder of scripts beside the package, and its modules import each other by name
sys.path.append(str(Path(__file__).resolve().parent.parent.parent / "benchmarks"))

import imbalance
import intervals
import skewed


def test_the_tail_is_from_150_samples_to_3() -> None:
    data = skewed.tail(0)
    counts = data.counts.tolist()
    assert sorted(counts, reverse=True)[::9] == [150, 3]
    assert min(data.minority, key=counts.__getitem__) == counts.index(3)
    assert len(data.y) + len(data.test_y) == 1797


def test_wrong_labels_are_among_those_trained_on() -> None:
    right, wrong = skewed.tail(0), skewed.tail(0, 0.05)
    assert torch.equal(right.x, wrong.x)
    assert torch.equal(right.test_y, wrong.test_y)
    assert 0.02 < (right.y != wrong.y).double().mean() < 0.09


def test_every_setting_is_drawn_alike_by_the_same_seed() -> None:
    for make in skewed.SETTINGS.values():
        one, again, other = make(1), make(1), make(2)
        assert all(torch.equal(a, b) for a, b in zip(one[:4], again[:4], strict=True))
        assert not torch.equal(one.x, other.x)


def test_scores_are_what_they_say() -> None:
    """Of class 0 all are hit, of class 1 one of four; in training 3 to 1."""
    module = skewed.Learner(2, torch.nn.functional.cross_entropy, 0.1, 0.0)
    module.net = torch.nn.Sequential(torch.nn.Identity())
    logits = torch.tensor([[1.0, 0.0]] * 2 + [[0.0, 1.0]] + [[1.0, 0.0]] * 3)
    data = skewed.Data(
        logits, torch.tensor([0, 0, 0, 1]), logits, torch.tensor([0] * 2 + [1] * 4), (1,)
    )
    assert skewed.scores(module, data) == pytest.approx((0.625, 0.25, 0.8125))


def test_an_interval_is_students() -> None:
    mean, half = intervals.interval([1.0, 2.0, 3.0])
    assert (mean, half) == pytest.approx((2.0, 4.303 / 3**0.5))


def test_differences_are_by_pairs_and_bold_where_they_are_sure() -> None:
    assert imbalance.difference([0.6, 0.71, 0.8], [0.5, 0.6, 0.7]) == "**+10.3 ± 1.4**"
    assert imbalance.difference([0.6, 0.4], [0.5, 0.5]).startswith("+0.0")
