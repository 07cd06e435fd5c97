"""Levels and trends: what is said of noise, and what of a signal in it (L5, P45)."""

from __future__ import annotations

import math
import random

import pytest
from scipy import stats  # type: ignore[import-untyped]

from lightning_diag.stopping.trend import (
    Level,
    is_better,
    is_rising,
    level_of,
    needed,
    noise_of,
    quantile,
    trend,
)


def noise(count: int, correlation: float, seed: int) -> list[float]:
    """Return an autoregression of first order, of deviation 1."""
    draw = random.Random(seed)
    values = [draw.gauss(0, 1)]
    for _ in range(count - 1):
        step = draw.gauss(0, math.sqrt(1 - correlation**2))
        values.append(correlation * values[-1] + step)
    return values


def test_the_score_of_values_without_correlation_is_kendalls() -> None:
    """Compared with scipy's tau, from which the score follows where no value comes twice."""
    values = [5.0, 1.0, 4.0, 2.0, 8.0, 3.0, 9.0, 6.0, 12.0, 7.0, 13.0, 10.0]
    assert noise_of(values).correlation == 0  # neighbours alternate
    n = len(values)
    tau = stats.kendalltau(range(n), values).statistic
    s = tau * n * (n - 1) / 2
    expected = (s - 1) / math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    assert trend(values).value == pytest.approx(expected)
    assert trend(values).verdict == "rising"


def test_the_noise_around_a_line_is_that_of_a_regression() -> None:
    values = [3.0, 2.5, 2.9, 1.0, 1.4, 0.2, 0.9, -1.0]
    line = stats.linregress(range(8), values)
    rest = [v - line.intercept - line.slope * i for i, v in enumerate(values)]
    assert noise_of(values).deviation == pytest.approx(math.sqrt(sum(r * r for r in rest) / 6))


@pytest.mark.parametrize("correlation", [0.3, 0.5])
def test_the_correlation_of_neighbours_is_found_without_bias(correlation: float) -> None:
    found = [noise_of(noise(60, correlation, seed)).correlation for seed in range(200)]
    assert sum(found) / len(found) == pytest.approx(correlation, abs=0.06)


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("count", [10, 20, 30])
def test_noise_is_rarely_called_rising(count: int, correlation: float) -> None:
    """P45: at 95 % about one in twenty (0.02 above is three standard errors of this count)."""
    alarms = [is_rising(noise(count, correlation, seed)) for seed in range(1000)]
    assert sum(alarms) / len(alarms) < (0.07 if correlation < 0.5 else 0.09)


def test_a_u_is_falling_then_flat_or_rising_and_rising_at_its_end() -> None:
    """P45: told from the same noise without a U."""
    shake = noise(60, 0.3, 1)
    curve = [0.02 * (i - 25) ** 2 / 25 + 0.05 * x for i, x in enumerate(shake)]
    assert trend(curve[:20]).verdict == "falling"
    assert trend(curve[15:35]).verdict == "flat"
    assert trend(curve, window=20).verdict == "rising"
    assert trend([0.05 * x for x in shake], window=20).verdict == "flat"


def test_a_single_spike_is_no_rise() -> None:
    values = [1.0 - 0.01 * (i % 3) for i in range(19)]
    assert trend([*values, 1e6]).verdict == "flat"


def test_a_smooth_fall_that_bends_is_falling() -> None:
    assert trend([math.exp(-i / 5) for i in range(10)]).verdict == "falling"


def test_nine_values_are_insufficient_and_what_is_not_finite_does_not_count() -> None:
    """P45: too little is said to be too little."""
    few = trend([*range(9), math.nan, math.inf])
    assert (few.verdict, few.window, few.count) == ("insufficient data", 11, 9)
    assert math.isnan(few.value)
    assert trend([*range(10), math.nan]).verdict == "rising"
    assert trend([]).verdict == "insufficient data"


def test_the_verdict_names_value_threshold_window_and_count() -> None:
    found = trend([*range(30), 5.0], window=12)
    assert (found.window, found.count) == (12, 12)
    assert found.threshold == pytest.approx(stats.norm.ppf(0.95))
    assert found.value > found.threshold


def test_equal_values_are_flat_and_have_no_noise() -> None:
    assert trend([0.1] * 12).verdict == "flat"
    level = level_of([0.1] * 12, 5)
    assert level == Level(0.1, 0.0, 5, 0.0)
    assert level_of([0.1] * 40, 5, average="ema") == Level(0.1, 0.0, 40, 0.0)


def test_a_level_is_the_mean_of_the_window_and_an_ema_weighs_by_age() -> None:
    values = [4.0, 1.0, 7.0, 2.0]
    mean, ema = level_of(values, 3), level_of(values, 3, average="ema")
    assert mean is not None
    assert ema is not None
    assert mean.value == pytest.approx((1 + 7 + 2) / 3)
    # alpha = 1/2: weights 1/8, 1/4, 1/2, 1 over 15/8.
    assert ema.value == pytest.approx((4 / 8 + 1 / 4 + 7 / 2 + 2) / (15 / 8))
    assert level_of(values, 5) is None


@pytest.mark.parametrize("correlation", [0.0, 0.5])
@pytest.mark.parametrize("average", ["mean", "ema"])
def test_the_error_is_that_of_the_average_over_many_draws(average: str, correlation: float) -> None:
    """The formula, with the true deviation and correlation, against the spread of 4000 draws."""
    from lightning_diag.stopping.trend import _spread, _weights

    weights = _weights(40, 5, "ema" if average == "ema" else "mean")
    used = [noise(40, correlation, seed)[-len(weights) :] for seed in range(4000)]
    means = [sum(w * x for w, x in zip(weights, xs, strict=True)) for xs in used]
    assert _spread(weights, correlation) == pytest.approx(stats.tstd(means), rel=0.05)


def test_an_improvement_must_exceed_noise_and_margin() -> None:
    best, new = Level(1.0, 0.03, 5, 0.0), Level(0.9, 0.04, 5, 0.0)
    assert needed(new, best, 0.95) == pytest.approx(1.6449 * 0.05, rel=1e-4)
    assert is_better(new, best)
    assert not is_better(new, best, margin=0.02)
    assert not is_better(new, best, rises=True)
    assert is_better(best, new, rises=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 9}, "`window` must be at least 10 values or None, got 9"),
        ({"confidence": 0.5}, "`confidence` must be above 0.5 and below 1, got 0.5"),
        ({"confidence": 1.0}, "`confidence` must be above 0.5 and below 1"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trend([1.0], **options)  # type: ignore[arg-type]


def test_quantiles_are_the_normal_ones() -> None:
    assert quantile(0.975) == pytest.approx(stats.norm.ppf(0.975))
