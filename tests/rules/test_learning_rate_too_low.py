"""`learning-rate-too-low`."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.learning_rate_too_low import LearningRateTooLow
from rules.stories import STEPS, flat, geometric, healthy_loss, meta, story, weight


def _ratio(value: float, rate: Any = lambda step: 1e-6) -> Any:
    def change(step: int, values: Any) -> None:
        values["update/ratio"] = dict.fromkeys(values["update/ratio"], value)
        values["lr/value"] = {"SGD/group0": rate(step)}

    return change


def _found(history: Any) -> int:
    return len(LearningRateTooLow()(history))


def test_weights_that_go_nowhere_are_found() -> None:
    """W6."""
    (finding,) = LearningRateTooLow()(story(_ratio(2e-6), loss=flat))
    assert finding.severity == "suspect"
    assert finding.evidence.value == 2e-6
    assert finding.message == (
        "Updates are too small: in each of the 10 watched steps from 372 to 399 nine of ten "
        "weights changed by at most 2e-06 of their size (threshold 1e-05, usual 0.001), and the "
        "loss went from 2.3 to 2.3 in 399 steps."
    )


@pytest.mark.parametrize(("value", "found"), [(0.99e-5, 1), (1.01e-5, 0)])
def test_the_threshold_decides(value: float, found: int) -> None:
    assert _found(story(_ratio(value), loss=flat)) == found


def _reaching(share: float, value: float = 2e-4, rate: Any = lambda step: 1e-6) -> Any:
    """All updates together can take away this share of a loss of 2.3, in 400 steps."""

    def change(step: int, values: Any) -> None:
        _ratio(value, rate)(step, values)
        values["gradient/total_norm"] = {"": 2.0}
        moved = share * 2.3 / 400 / 2.0
        values["update/norm"] = {weight(0): 0.6 * moved, weight(1): 0.8 * moved}

    return change


@pytest.mark.parametrize(("share", "found"), [(0.24, 1), (0.26, 0)])
def test_updates_that_cannot_lower_the_loss_are_found_at_any_size(share: float, found: int) -> None:
    """W6, W10."""
    history = story(_reaching(share), loss=flat)
    assert _found(history) == found
    if found:
        (finding,) = LearningRateTooLow()(history)
        assert finding.evidence.value == pytest.approx(0.24)
        assert "could have lowered it by at most 0.552, 24.0% (threshold 25%)" in finding.message


@pytest.mark.parametrize(("classes", "found"), [(10_000, 0), (9_800, 1), (2, 1)])
def test_a_trained_classifier_may_be_tuned_slowly(classes: int, found: int) -> None:
    """Its first loss, 2.3, is a quarter of ln 9,897."""
    about = meta()
    about["losses"] = {"cross_entropy#0": {"function": "cross_entropy", "classes": classes}}
    assert _found(story(_ratio(2e-6), loss=flat, about=about)) == found


def test_weights_that_move_as_usual_have_another_problem() -> None:
    """W1: deep sigmoids have small gradients at first, and Adam moves them all the same."""
    assert _found(story(_reaching(0.01, value=2.9e-4), loss=flat)) == 1
    assert _found(story(_reaching(0.01, value=3.1e-4), loss=flat)) == 0


@pytest.mark.parametrize(
    ("cosine", "classes", "found"),
    [(0.2, 10, 1), (0.3, 10, 0), (0.2, 13, 0), (-0.1, 10, 1)],
    ids=["noise", "signal", "has learned", "nothing but noise"],
)
def test_of_the_steps_of_a_guesser_only_what_batches_agree_on_counts(
    cosine: float, classes: int, found: int
) -> None:
    """W6: a loss of 2.3 is that of guessing among 10 classes, and no longer among 13."""

    def change(step: int, values: Any) -> None:
        _reaching(1.0)(step, values)
        values["gradient/cosine"] = {"": cosine}

    about = meta()
    about["losses"] = {"cross_entropy#0": {"function": "cross_entropy", "classes": classes}}
    history = story(change, loss=flat, about=about)
    assert _found(history) == found
    if cosine == 0.2 and found:
        (finding,) = LearningRateTooLow()(history)
        assert "of which neighbouring gradients share 20%, could have" in finding.message


@pytest.mark.parametrize(
    "rate", [lambda step: 0.1 * (1 + math.cos(math.pi * step / 400)) / 2, lambda step: 0.1]
)
def test_a_schedule_that_ends_does_not_excuse_all_that_came_before(rate: Any) -> None:
    assert _found(story(_reaching(0.01, rate=rate), loss=flat)) == 1


def test_the_reach_is_not_known_without_the_first_steps() -> None:
    """A resumed run has come far already."""
    history = story(_reaching(0.001), loss=flat, steps=range(5000, 5400, 3))
    assert _found(history) == 0


def test_updates_that_once_were_long_count_to_the_end() -> None:
    def change(step: int, values: Any) -> None:
        _reaching(0.01 if step > 20 else 10.0)(step, values)

    assert _found(story(change, loss=flat)) == 0


def test_other_small_updates_are_not_found() -> None:
    """Fine-tuning at 1e-5 moves weights by about 1e-4 a step, and settles."""
    assert _found(story(_ratio(5e-5), loss=flat)) == 0


def test_a_run_that_learns_is_healthy() -> None:
    assert _found(story(_ratio(2e-6), loss=healthy_loss)) == 0


@pytest.mark.parametrize(("end", "found"), [(1.85, 1), (1.83, 0)])
def test_a_fifth_of_the_loss_is_progress(end: float, found: int) -> None:
    history = story(_ratio(2e-6), loss=lambda step: 2.3 + (end - 2.3) * step / 399)
    assert _found(history) == found


def test_one_fast_layer_in_six_is_no_excuse_but_two_are() -> None:
    def change(fast: int) -> Any:
        def edit(step: int, values: Any) -> None:
            _ratio(2e-6)(step, values)
            for i in range(fast):
                values["update/ratio"][weight(i)] = 2e-3

        return edit

    assert _found(story(change(1), loss=flat)) == 1
    assert _found(story(change(2), loss=flat)) == 0


def test_early_layers_that_starve_are_another_problem() -> None:
    """W1: `vanishing-gradient`."""

    def change(step: int, values: Any) -> None:
        ratios = geometric(1e-8, 10.0)
        values["update/ratio"] = {weight(i): ratios[i] for i in range(6)}

    assert _found(story(change, loss=flat)) == 0


@pytest.mark.parametrize(
    "rate",
    [
        lambda step: 1e-6 * (step + 1),
        lambda step: 0.1 * (1 + math.cos(math.pi * step / 400)) / 2,
        lambda step: 0.1 if step < 200 else 0.01,
    ],
    ids=["warm-up", "cosine decay", "step decay"],
)
def test_a_schedule_is_an_excuse(rate: Any) -> None:
    """L2, L4."""
    assert _found(story(_ratio(2e-6, rate), loss=flat)) == 0


def test_updates_that_were_large_before_are_an_excuse() -> None:
    """What died of a high learning rate stands still too."""

    def change(step: int, values: Any) -> None:
        _ratio(0.3 if step < 10 else 0.0)(step, values)

    assert _found(story(change, loss=flat)) == 0


def test_a_gradient_of_zero_is_an_excuse() -> None:
    def change(step: int, values: Any) -> None:
        _ratio(1e-8)(step, values)
        values["gradient/total_norm"] = {"": 0.0}

    assert _found(story(change, loss=flat)) == 0


def test_short_runs_are_not_observed() -> None:
    early = story(_ratio(2e-6), loss=flat, steps=[step for step in STEPS if step < 100])
    verdict = LearningRateTooLow().check(early)
    assert verdict == NotObserved("learning-rate-too-low", "the run is shorter than 100 steps")
    late = story(_ratio(2e-6), loss=flat, steps=[step for step in STEPS if step <= 102])
    assert _found(late) == 1


def test_several_optimizers_are_not_observed() -> None:
    """P35: one loss curve says nothing of each of them."""
    about = meta(optimizers=["Adam", "Adam"])
    verdict = LearningRateTooLow().check(story(_ratio(2e-6), loss=flat, about=about))
    assert isinstance(verdict, NotObserved)
