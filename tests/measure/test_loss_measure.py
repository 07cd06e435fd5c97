"""Noise and spikes of loss curves, against curves whose noise is known (W10)."""

from __future__ import annotations

import math
import random
from statistics import NormalDist, median, stdev

import pytest

from lightning_diag.measure.loss import SpikeCounter, trend_noise


def noisy(level: float, deviation: float, steps: int, slope: float = 0.0) -> list[float]:
    draw = random.Random(0)
    return [level + slope * i + draw.gauss(0.0, deviation) for i in range(steps)]


@pytest.mark.parametrize("slope", [0.0, -0.001, 0.01])
def test_noise_is_the_deviation_over_the_level(slope: float) -> None:
    losses = noisy(2.0, 0.1, 20_000, slope)
    noise = trend_noise(losses)
    assert noise == pytest.approx(0.1 / abs(median(losses)), rel=0.03)


def test_noise_of_a_flat_curve_is_its_standard_deviation() -> None:
    losses = noisy(1.0, 0.05, 20_000)
    assert trend_noise(losses) == pytest.approx(stdev(losses), rel=0.03)


def test_the_constants_are_those_of_the_normal_distribution() -> None:
    """Second differences of independent noise have 1 + 4 + 1 times its variance."""
    from lightning_diag.measure.loss import _DEVIATION

    assert pytest.approx(1 / NormalDist().inv_cdf(0.75), rel=1e-4) == _DEVIATION


@pytest.mark.parametrize("curve", ["line", "exponential", "constant"])
def test_a_smooth_curve_has_hardly_any_noise(curve: str) -> None:
    losses = {
        "line": [3.0 - 0.01 * i for i in range(64)],
        "exponential": [2.0 * math.exp(-i / 20) for i in range(64)],
        "constant": [0.7] * 64,
    }[curve]
    noise = trend_noise(losses)
    assert noise is not None
    assert 0 <= noise < 2e-3


def test_spikes_and_bad_losses_are_not_noise() -> None:
    losses = noisy(2.0, 0.1, 2000)
    noise = trend_noise(losses)
    for i in range(0, 2000, 100):
        losses[i] = 50.0
        losses[i + 1] = math.nan
    assert noise is not None
    assert trend_noise(losses) == pytest.approx(noise, rel=0.1)


@pytest.mark.parametrize(
    "losses", [[], [1.0] * 7, [math.nan] * 20, [1.0] * 7 + [math.inf] * 9, [0.0] * 20]
)
def test_too_few_losses_have_no_noise(losses: list[float]) -> None:
    assert trend_noise(losses) is None


def test_negative_losses_have_a_positive_noise() -> None:
    """A likelihood of densities may well be below 0."""
    assert trend_noise(noisy(-2.0, 0.1, 5000)) == pytest.approx(0.05, rel=0.1)


# Spikes ---------------------------------------------------------------------------------------


def spikes(losses: list[float], counter: SpikeCounter | None = None) -> list[int]:
    counter = SpikeCounter() if counter is None else counter
    return [i for i, loss in enumerate(losses) if counter.is_spike(loss)]


def test_normal_noise_has_no_spikes() -> None:
    assert spikes(noisy(2.0, 0.1, 5000)) == []


def test_a_spike_is_seen_once() -> None:
    losses = noisy(2.0, 0.1, 500)
    losses[300] = 3.5
    assert spikes(losses) == [300]


def test_a_loss_just_outside_the_band_is_a_spike_and_just_inside_is_not() -> None:
    band = [1.0, 1.2, 1.1, 1.05, 1.15, 1.0, 1.2, 1.1, 1.1]
    # their median is 1.1, their median distance from it 0.05
    edge = 1.1 + 6 * 1.4826 * 0.05
    for loss, expected in ((edge - 1e-6, []), (edge + 1e-6, [9])):
        assert spikes([*band, loss], SpikeCounter(window=9)) == expected


def test_a_loss_far_below_the_band_is_no_spike() -> None:
    assert spikes([*noisy(2.0, 0.1, 100), 0.0]) == []


def test_nothing_is_judged_before_eight_losses() -> None:
    assert spikes([1.0] * 7 + [100.0]) == []
    assert spikes([1.0] * 8 + [100.0]) == [8]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_loss_is_a_spike_and_leaves_the_band_alone(bad: float) -> None:
    losses = noisy(2.0, 0.1, 100)
    assert spikes([*losses, bad, *noisy(2.0, 0.1, 50)]) == [100]


def test_rounding_of_a_constant_loss_is_no_spike() -> None:
    assert spikes([0.5 + 1e-7 * (i % 3) for i in range(100)]) == []


def test_a_higher_level_becomes_the_new_band() -> None:
    found = spikes([1.0] * 64 + [5.0] * 64, SpikeCounter(window=16))
    assert found[0] == 64
    assert len(found) <= 8
