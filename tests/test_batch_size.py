"""Advice on the batch size is careful: only a whole interval calls a batch small or large (W15)."""

from __future__ import annotations

import math

import pytest

from lightning_diag import suggest_batch_size


@pytest.mark.parametrize(
    ("scale", "batch", "verdict"),
    [
        (1000.0, 32, "small"),
        (1000.0, 250, "fitting"),
        (1000.0, 4000, "fitting"),
        (1000.0, 4001, "large"),
        (0.0, 1, "fitting"),
        (0.0, 5, "large"),
    ],
)
def test_a_batch_is_judged_by_its_distance_from_the_noise_scale(
    scale: float, batch: int, verdict: str
) -> None:
    assert suggest_batch_size(scale, batch).verdict == verdict


def test_steps_and_samples_follow_the_paper() -> None:
    """At the noise scale itself both are twice the least: McCandlish et al., section 2.3."""
    advice = suggest_batch_size(512.0, 512)
    assert (advice.steps_ratio, advice.samples_ratio) == (2.0, 2.0)
    assert (advice.least, advice.suggested, advice.most) == (128, 512, 2048)
    assert advice.reason == (
        "Batches of 512 samples are near the noise scale of about 512: they need 2.0 times the "
        "fewest steps, and 2.0 times the fewest samples."
    )


def test_far_below_a_batch_twice_as_large_nearly_halves_the_steps() -> None:
    advice = suggest_batch_size(32_000.0, 32)
    assert "batches twice as large need 50% fewer steps" in advice.reason


def test_far_above_samples_are_wasted() -> None:
    advice = suggest_batch_size(100.0, 900)
    assert "they need 10.0 times the samples" in advice.reason


def test_an_uncertain_noise_scale_accuses_no_batch() -> None:
    assert suggest_batch_size(1000.0, 32, low=100.0, high=9000.0).verdict == "fitting"
    assert suggest_batch_size(10.0, 100, low=5.0, high=40.0).verdict == "fitting"
    assert suggest_batch_size(10.0, 100, low=5.0, high=20.0).verdict == "large"
    assert suggest_batch_size(10.0, 100, low=5.0, high=math.inf).verdict == "fitting"


def test_a_lower_end_alone_can_tell_that_a_batch_is_small() -> None:
    advice = suggest_batch_size(None, 32, low=1000.0, high=math.inf)
    assert (advice.verdict, advice.suggested, advice.least) == ("small", None, 1024)
    assert suggest_batch_size(None, 512, low=1000.0, high=math.inf).verdict == "unknown"


@pytest.mark.parametrize("scale", [None, math.inf, math.nan])
def test_an_unknown_noise_scale_says_nothing(scale: float | None) -> None:
    advice = suggest_batch_size(scale, 32, low=0.0)
    assert advice.verdict == "unknown"
    assert advice.suggested is None
    assert "not known yet" in advice.reason


def test_bad_arguments_are_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="`batch_size` must be at least 1 sample, got 0"):
        suggest_batch_size(10.0, 0)
    with pytest.raises(ValueError, match="`noise_scale` must be at least 0 samples, got -1"):
        suggest_batch_size(-1.0, 8)
    with pytest.raises(ValueError, match="`near` must be at least 1"):
        suggest_batch_size(1.0, 8, near=0.5)
