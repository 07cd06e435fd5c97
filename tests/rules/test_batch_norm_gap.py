"""`batch-norm-gap`."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.batch_norm_gap import BatchNormGap
from rules.signal_stories import LOOKS, PLACE, norm
from rules.stories import STEPS, flat, healthy_loss, story


def _found(history: Any) -> int:
    return len(BatchNormGap()(history))


def test_a_running_variance_that_is_not_that_of_the_batches_is_found() -> None:
    """W14: a momentum of 1e-4, or batches far out of range."""
    (finding,) = BatchNormGap()(story(norm(ratio=0.1)))
    assert finding.severity == "suspect"
    assert finding.places == (PLACE,)
    assert finding.steps == (LOOKS[-2], LOOKS[-1])
    assert finding.message == (
        f"Running statistics are not those of the batches: `{PLACE}` has seen batches with 0.1 "
        "times the running variance (threshold 0.323), in 2 looks from step "
        f"{LOOKS[-2]} to {LOOKS[-1]}."
    )


@pytest.mark.parametrize(
    ("gap", "ratio", "found"),
    [(0.1, 0.33, 0), (0.1, 0.32, 1), (0.1, 2.99, 0), (0.1, 3.01, 1), (0.49, 1.0, 0), (0.5, 1.0, 1)],
)
def test_the_thresholds_decide(gap: float, ratio: float, found: int) -> None:
    assert len(BatchNormGap(lasting=3.0)(story(norm(gap, ratio)))) == found


@pytest.mark.parametrize(("ratio", "found"), [(0.55, 1), (0.56, 0), (1.76, 1), (1.74, 0)])
def test_less_is_enough_if_it_lasts(ratio: float, found: int) -> None:
    """W14: a momentum of 1e-3 in a run of some hundred steps."""
    findings = BatchNormGap()(story(norm(ratio=ratio)))
    assert len(findings) == found
    if found:
        assert findings[0].steps == (LOOKS[-8], LOOKS[-1])
        assert findings[0].evidence.observations == 8


@pytest.mark.parametrize(("rate", "found"), [(0.01, 0), (0.001, 1)])
def test_variances_that_close_are_healthy(rate: float, found: int) -> None:
    """A momentum of 0.01 is a tenth of the usual, and that of other libraries."""
    steps = [step for step in STEPS if step < 180]
    history = story(norm(ratio=lambda step: math.exp(-1.5 * math.exp(-rate * step))), steps=steps)
    assert _found(history) == found


def test_one_look_without_a_gap_is_not_enough() -> None:
    assert _found(story(norm(ratio=lambda step: 0.9 if step == LOOKS[-6] else 0.4))) == 0


@pytest.mark.parametrize(("size", "gap"), [(4, 0.5), (8, 0.35), (4, 0.74)])
def test_small_batches_scatter_without_harm(size: float, gap: float) -> None:
    """The mean of n samples is off by one over the root of n."""
    assert _found(story(norm(gap, 0.5, size=size))) == 0


def test_batches_of_two_are_found_and_bad_if_the_loss_stands_still() -> None:
    """W14: after batch norm two samples are 1 and -1."""
    (finding,) = BatchNormGap()(story(norm(0.7, 0.3, size=2.0)))
    assert finding.severity == "suspect"
    assert "rests on 2 samples a batch" in finding.message
    (finding,) = BatchNormGap()(story(norm(0.7, 0.3, size=2.0), loss=flat))
    assert finding.severity == "bad"


@pytest.mark.parametrize(("usual", "found"), [(0.7, 1), (0.4, 0)])
def test_batches_of_two_are_told_by_what_is_usual(usual: float, found: int) -> None:
    """Now and then two samples are alike, or far apart."""
    gaps = norm(lambda step: 1.1 - usual if step in LOOKS[-1::-3] else usual, 0.9, size=2.0)
    assert _found(story(gaps)) == found


def test_one_large_image_a_batch_is_enough_of_a_sample() -> None:
    assert _found(story(norm(0.2, 0.8, size=1.0))) == 0


def test_the_first_steps_are_healthy() -> None:
    """Running statistics begin at 0 and 1, and need some steps."""
    early = story(norm(3.0, 0.01), steps=[step for step in STEPS if step < 160])
    verdict = BatchNormGap().check(early)
    assert verdict == NotObserved(
        "batch-norm-gap", "batch norm was not looked at 2 times after step 200"
    )


def test_a_gap_that_closes_is_healthy() -> None:
    """A small momentum takes its time, but arrives."""
    closing = story(norm(lambda step: 1.0 if step < LOOKS[-1] else 0.7))
    assert _found(closing) == 0
    staying = story(norm(lambda step: 1.0 if step < LOOKS[-1] else 0.9))
    assert _found(staying) == 1


def test_one_odd_batch_is_no_gap() -> None:
    assert _found(story(norm(lambda step: 9.0 if step == LOOKS[-2] else 0.1))) == 0


@pytest.mark.parametrize(("last", "severity"), [(1.3, "bad"), (1.1, "suspect")])
def test_it_is_bad_if_validation_says_so_too(last: float, severity: str) -> None:
    """At least half of the first loss, 2.3, and three times the training loss."""

    def change(step: int, values: Any) -> None:
        norm(ratio=0.1)(step, values)
        values["validation/val_loss"] = {"": last}

    history = story(change, loss=healthy_loss)
    history.update_meta({"validation": {"loss": "val_loss", "metrics": {"val_loss": "min"}}})
    (finding,) = BatchNormGap()(history)
    assert finding.severity == severity


def test_a_resumed_run_waits_as_long() -> None:
    steps = [1000 + step for step in STEPS]

    def change(step: int, values: Any) -> None:
        norm(ratio=0.1)(step - 1000, values)

    assert _found(story(change, steps=[s for s in steps if s < 1160])) == 0
    assert _found(story(change, steps=steps)) == 1
