"""The linear probe: a known classifier, chance, and what few samples cannot say (T5)."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from lightning_diag.transfer.linear_probe import _shrinkage, _told, linear_probe


def standardised(x: Tensor) -> Tensor:
    x = x[:, x.std(0) > 0]
    return (x - x.mean(0)) / x.std(0)


def digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    return torch.tensor(found.data), torch.tensor(found.target)


def drawn(n: int, features: int, distance: float, classes: int = 2, seed: int = 0) -> Any:
    """Return normal features whose class means are so many deviations from 0."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    x = torch.randn(n, features, generator=generator)
    x[torch.arange(n), y] += distance
    return x, y


@pytest.mark.parametrize("n", [40, 400], ids=["fewer samples than features", "more"])
def test_it_shrinks_as_ledoit_and_wolf_do(n: int) -> None:
    x = standardised(digits()[0][:n])
    expected = ledoit_wolf_shrinkage(x.numpy(), assume_centered=True)
    assert _shrinkage(x) == pytest.approx(expected)


def test_it_tells_what_a_discriminant_analysis_written_out_tells() -> None:
    """The covariance within classes is inverted here; scikit-learn's, not shrunk, mostly agrees."""
    x, y = digits()
    x = x[:, x[:300].std(0) > 0]
    scaled = (x - x[:300].mean(0)) / x[:300].std(0)
    shrinkage = _shrinkage(scaled[:300])
    means = torch.stack([scaled[:300][y[:300] == k].mean(0) for k in range(10)])
    inner = scaled[:300] - means[y[:300]]
    within = (1 - shrinkage) * inner.T @ inner / 300 + shrinkage * torch.eye(x.shape[1])
    inverse = torch.linalg.inv(within)
    scores = scaled[300:] @ inverse @ means.T - (means @ inverse * means).sum(1) / 2
    told = _told(x[:300], y[None, :300], x[300:], 10)[0]
    assert torch.equal(told, scores.argmax(1))
    plain = LinearDiscriminantAnalysis(priors=[0.1] * 10).fit(scaled[:300].numpy(), y[:300].numpy())
    agreeing = (torch.tensor(plain.predict(scaled[300:].numpy())) == told).double().mean()
    assert agreeing > 0.9


def test_digits_are_separated_and_noise_is_near_chance() -> None:
    x, y = digits()
    good = linear_probe(x[:500], y[:500])
    assert good.verdict == "separate"
    assert good.accuracy > 0.9
    assert good.chance == 0.1
    assert good.p_value == 1 / 200
    assert good.interval[0] < good.accuracy < good.interval[1]
    poor = linear_probe(torch.randn(500, 64), y[:500])
    assert poor.verdict == "near chance"
    assert poor.interval[0] < 0.1 < poor.interval[1]
    assert abs(poor.skill) < 0.1


def test_few_samples_say_neither() -> None:
    verdicts = {linear_probe(*drawn(12, 5, 0.0, seed=seed)).verdict for seed in range(10)}
    assert verdicts <= {"insufficient data", "separate"}
    assert "insufficient data" in verdicts


def test_features_that_separate_somewhat_are_never_near_chance() -> None:
    """Of 40 draws with an accuracy of about 80 %, from 40 to 400 samples."""
    for seed in range(10):
        for n in (40, 100, 200, 400):
            assert linear_probe(*drawn(n, 20, 1.2, seed=seed)).verdict != "near chance"


def test_chance_separates_no_more_often_than_the_level_of_the_test() -> None:
    found = [linear_probe(*drawn(60, 10, 0.0, seed=seed)) for seed in range(60)]
    assert sum(each.verdict == "separate" for each in found) <= 6
    p_values = torch.tensor([each.p_value for each in found])
    assert 0.35 < float(p_values.mean()) < 0.65


def test_unequal_classes_do_not_raise_chance() -> None:
    """Guessing the frequent class is right for 90 % of samples, and for half of the classes."""
    x = torch.randn(500, 10)
    y = (torch.arange(500) % 10 == 0).long()
    found = linear_probe(x, y)
    assert found.chance == 0.5
    assert found.accuracy == pytest.approx(0.5, abs=0.1)
    assert found.verdict == "near chance"
    x[y == 1, 0] += 3
    assert linear_probe(x, y).verdict == "separate"


def test_the_scale_of_features_and_constant_ones_change_nothing() -> None:
    x, y = drawn(200, 6, 1.0)
    scales = torch.tensor([1e-6, 1e6, 1.0, 3.0, 1.0, 1.0])
    other = torch.cat([x * scales + 5, torch.full((200, 2), 7.0)], 1)
    one, two = linear_probe(x.double(), y), linear_probe(other.double(), y)
    assert one.accuracy == pytest.approx(two.accuracy, abs=0.011)
    assert linear_probe(torch.ones(200, 3), y).accuracy == 0.5


def test_classes_of_one_sample_are_left_out() -> None:
    x, y = drawn(60, 6, 4.0)
    y[0] = 99
    found = linear_probe(x, y)
    assert (found.classes, found.samples) == (2, 59)


def test_random_states_are_left_alone() -> None:
    x, y = drawn(60, 6, 1.0)
    before = torch.get_rng_state(), random.getstate()
    one = linear_probe(x, y)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert one == linear_probe(x, y)
    assert one != linear_probe(x, y, seed=1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"targets": torch.zeros(20)}, TypeError, "whole numbers, got torch.float32"),
        ({"features": torch.zeros(19, 2)}, ValueError, r"got \(19, 2\) and \(20,\)"),
        ({"features": torch.full((20, 2), float("nan"))}, ValueError, "must be finite"),
        ({"targets": torch.zeros(20).long()}, ValueError, "2 classes of at least 2 samples, got 1"),
        ({"folds": 1}, ValueError, "`folds` must be at least 2, got 1"),
        ({"permutations": 5}, ValueError, "`permutations` must be at least 19, got 5"),
    ],
)
def test_what_cannot_be_probed_is_refused(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments = {"features": torch.randn(20, 2), "targets": torch.arange(20) % 2, **change}
    with pytest.raises(error, match=message):
        linear_probe(**arguments)
