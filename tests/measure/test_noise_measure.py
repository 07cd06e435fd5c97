"""The noise scale against a problem whose truth is known, sample by sample (W15)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_diag.measure.noise import GradientPairMeasure, noise_scale, sample

SAMPLES = 4096
WIDTH = 200


def _gradients(noise: float, seed: int) -> Tensor:
    """Return the gradient of each sample of a linear regression, at weights of 0."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(SAMPLES, WIDTH, generator=generator, dtype=torch.float64)
    truth = torch.ones(WIDTH, dtype=torch.float64) / math.sqrt(WIDTH)
    noises = torch.randn(SAMPLES, generator=generator, dtype=torch.float64)
    return -2 * x * (x @ truth + noise * noises)[:, None]


def _simple_noise_scale(gradients: Tensor) -> float:
    """McCandlish et al., equation 2.9: trace of the covariance over the squared norm."""
    mean = gradients.mean(0)
    trace = float((gradients - mean).square().sum() / (len(gradients) - 1))
    return trace / (float(mean.square().sum()) - trace / len(gradients))


@pytest.mark.parametrize(("noise", "batch"), [(0.0, 32), (1.0, 64), (3.0, 256), (1.0, 512)])
def test_the_estimate_is_near_the_truth(noise: float, batch: int) -> None:
    per_sample = _gradients(noise, seed=5)
    measure, generator = GradientPairMeasure(), torch.Generator().manual_seed(1)
    cosines = []
    for _ in range(64):
        order = torch.randperm(SAMPLES, generator=generator)
        pair = [per_sample[order[i * batch : (i + 1) * batch]].mean(0).float() for i in (0, 1)]
        columns = measure.observe(*pair)
        cosines.append(measure.summarise([""], columns.sums, columns.maxima)["cosine"][""])
    truth = _simple_noise_scale(per_sample)
    # two batches without a common sample are a little less alike than two drawn on their own
    assert noise_scale(cosines, batch) == pytest.approx(truth, rel=0.25)
    assert 150 < truth < 5000


def test_without_a_common_direction_it_is_the_least_that_is_likely() -> None:
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn(16, generator=generator) * 0.01).tolist()
    mean = math.fsum(values) / 16
    error = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / 15 / 16)
    assert noise_scale([-abs(v) for v in values], 8) > 8 / 0.01
    assert noise_scale([v - mean for v in values], 8) == pytest.approx(8 * (1 - error) / error)


def test_gradients_that_agree_have_no_noise() -> None:
    assert noise_scale([1.0, 1.0, 1.0, 1.0], 32) == 0.0


def test_the_sample_is_the_same_each_time_and_has_at_most_so_many_coordinates() -> None:
    gradients = [torch.randn(300, 300), torch.randn(7), torch.randn(64, 3, 3, 3)]
    first = sample(gradients)
    assert first is not None
    assert first.numel() <= 16_384
    assert first.numel() > 10_000
    second = sample([g * 2 for g in gradients])
    assert second is not None
    assert torch.equal(second, first * 2)


def test_small_models_are_compared_as_a_whole() -> None:
    gradients = [torch.randn(30, 30), torch.randn(7)]
    found = sample(gradients)
    assert found is not None
    assert torch.equal(found, torch.cat([g.flatten() for g in gradients]))


def test_the_sample_is_a_copy() -> None:
    gradient = torch.ones(4, 4)
    found = sample([gradient])
    gradient.zero_()
    assert found is not None
    assert float(found.sum()) == 16.0


@pytest.mark.parametrize("missing", [None, torch.ones(3, 3).to_sparse()])
def test_what_is_missing_or_sparse_is_not_compared(missing: Tensor | None) -> None:
    assert sample([torch.ones(3, 3), missing]) is None
    assert sample([]) is None


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_gradient_without_a_direction_has_no_cosine(value: float) -> None:
    measure = GradientPairMeasure()
    columns = measure.observe(torch.full((4,), value), torch.ones(4))
    assert measure.summarise([""], columns.sums, columns.maxima) == {"cosine": {}}


@pytest.mark.parametrize("size", [1e-25, 1e-12, 1.0, 1e25])
def test_gradients_of_any_size_have_their_cosine(size: float) -> None:
    """Squares of 1e-25 leave the range of float32."""
    measure = GradientPairMeasure()
    columns = measure.observe(torch.tensor([3.0, 4.0]) * size, torch.tensor([4.0, 3.0]) * size)
    found = measure.summarise([""], columns.sums, columns.maxima)["cosine"][""]
    assert found == pytest.approx(0.96, rel=1e-6)


def test_blocks_are_spread_over_the_whole_of_a_tensor() -> None:
    found = sample([torch.arange(512 * 512.0).view(512, 512)])
    assert found is not None
    assert found.numel() == len(set(found.tolist())) == 16_384
    assert float(found.min()) < 2_000
    assert float(found.max()) > 260_000


def test_replicas_cancel_and_shards_pool() -> None:
    """P6: the same on two ranks, or half of it on each."""
    generator = torch.Generator().manual_seed(2)
    one, two = torch.randn(2, 8, generator=generator).unbind(0)
    measure = GradientPairMeasure()
    whole = measure.observe(one, two).sums
    halves = measure.observe(one[:4], two[:4]).sums + measure.observe(one[4:], two[4:]).sums
    expected = float(torch.nn.functional.cosine_similarity(one, two, dim=0))
    for sums in (whole, 2 * whole, halves):
        found = measure.summarise([""], sums, torch.zeros(1, 0))["cosine"][""]
        assert found == pytest.approx(expected, rel=1e-6)
