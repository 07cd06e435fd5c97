"""The verdict on made-up metrics: intervals against the truth, and when there is none (T5)."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_diag.transfer.verdict import Judgement, differences, interval, judge, student

SCRATCH = (0.5, 0.6, 0.55, 0.52, 0.58)
UNTRAINED = (0.1, 0.12, 0.08, 0.11, 0.09)
NOISE = (0.01, -0.01, 0.005, -0.005, 0.0)


def verdict(head_only: float, tuned: float, margin: float = 0.02, noise: float = 1.0) -> Judgement:
    """Judge arms that are so much better than the one from scratch, but for some noise."""
    arms = {
        name: tuple(s + gain + noise * n for s, n in zip(SCRATCH, NOISE, strict=True))
        for name, gain in (("head-only", head_only), ("fine-tuned", tuned))
    }
    learned = differences({**arms, "from-scratch": SCRATCH}, UNTRAINED, "max")
    return judge(differences(arms, SCRATCH, "max"), learned, margin)


@pytest.mark.parametrize(
    ("freedom", "confidence", "expected"),
    [
        (1, 0.95, 12.7062), (2, 0.95, 4.3027), (3, 0.95, 3.1824), (4, 0.95, 2.7764),
        (9, 0.95, 2.2622), (30, 0.95, 2.0423), (4, 0.99, 4.6041), (5, 0.9, 2.0150),
        (1, 0.5, 1.0), (120, 0.998, 3.1595),
    ],
)  # fmt: skip
def test_students_quantile_is_that_of_printed_tables(
    freedom: int, confidence: float, expected: float
) -> None:
    assert student(freedom, confidence) == pytest.approx(expected, abs=6e-5)


@pytest.mark.parametrize(
    ("head_only", "tuned", "expected", "arm"),
    [
        (0.2, 0.1, "transfer helps", "head-only"),
        (-0.2, 0.1, "transfer helps", "fine-tuned"),
        (-0.2, -0.1, "transfer hurts", "fine-tuned"),
        (-0.2, 0.0, "no difference", "fine-tuned"),
        (0.0, 0.0, "no difference", "head-only"),
    ],
)
def test_the_better_arm_decides(head_only: float, tuned: float, expected: str, arm: str) -> None:
    """The noise is a hundredth, so that each interval is two hundredths to both sides."""
    found = verdict(head_only, tuned, margin=0.03)
    assert (found.verdict, found.arm) == (expected, arm)
    assert arm in found.reason


@pytest.mark.parametrize("gain", [-0.05, 0.0, 0.05])
def test_noise_that_hides_a_difference_is_no_verdict(gain: float) -> None:
    found = verdict(gain, gain, noise=20.0)
    assert found.verdict == "insufficient data"
    assert "more seeds may tell" in found.reason


def test_a_sure_difference_below_the_margin_is_none() -> None:
    assert verdict(0.01, 0.01, noise=0.01).verdict == "no difference"
    assert verdict(0.01, 0.01, noise=0.01, margin=0.005).verdict == "transfer helps"


def test_one_arm_that_is_sure_and_better_is_help_though_another_is_better_still() -> None:
    """The other's interval is too wide to say."""
    arms = {
        "head-only": tuple(
            s + d for s, d in zip(SCRATCH, (0.9, -0.4, 0.8, -0.3, 0.7), strict=True)
        ),
        "fine-tuned": tuple(s + 0.1 + n for s, n in zip(SCRATCH, NOISE, strict=True)),
    }
    compared = differences(arms, SCRATCH, "max")
    learned = differences(arms, UNTRAINED, "max")
    found = judge(compared, learned, 0.02)
    assert (found.verdict, found.arm) == ("transfer helps", "fine-tuned")


def test_where_nothing_was_learned_there_is_no_verdict() -> None:
    arms = {"head-only": (0.1, 0.2, 0.15), "fine-tuned": (0.1, 0.2, 0.15)}
    scratch = (0.11, 0.19, 0.15)
    compared = differences(arms, scratch, "max")
    learned = differences({**arms, "from-scratch": scratch}, (0.12, 0.18, 0.16), "max")
    assert judge(compared, learned, 1.0).verdict == "insufficient data"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_no_verdict(value: float) -> None:
    arms = {"head-only": (value, 0.5, 0.5), "fine-tuned": (0.5, 0.5, 0.5)}
    compared = differences(arms, (0.1, 0.1, 0.1), "max")
    assert judge(compared, compared, 0.0).verdict == "insufficient data"


@given(st.lists(st.floats(0, 1), min_size=3, max_size=6), st.floats(-0.3, 0.3))
def test_a_metric_to_fall_is_judged_like_its_negative(values: list[float], gain: float) -> None:
    moved = {"fine-tuned": [v + gain for v in values]}
    turned = {"fine-tuned": [-v - gain for v in values]}
    up, down = differences(moved, values, "max"), differences(turned, [-v for v in values], "min")
    assert up[0].mean == pytest.approx(down[0].mean)
    assert up[0].interval == pytest.approx(down[0].interval)


def test_without_a_difference_few_verdicts_are_wrong() -> None:
    """Of 1,000 comparisons of three arms that are the same, with 5 seeds: at most 1 in 20."""
    draw = random.Random(0)

    def metric(level: float = 0.5) -> tuple[float, ...]:
        return tuple(draw.gauss(level, 0.05) for _ in range(5))

    wrong = 0
    for _ in range(1000):
        arms, scratch = {"head-only": metric(), "fine-tuned": metric()}, metric()
        learned = differences(arms, metric(0.0), "max")
        found = judge(differences(arms, scratch, "max"), learned, 0.0)
        wrong += found.verdict in ("transfer helps", "transfer hurts")
    assert wrong <= 50


def test_an_interval_of_one_value_is_not_known() -> None:
    assert all(math.isnan(bound) for bound in interval([1.0]))
    assert all(math.isnan(bound) for bound in interval([1.0, math.inf]))
