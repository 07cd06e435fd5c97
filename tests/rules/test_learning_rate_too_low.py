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


def _straight(step: int) -> float:
    return 2.3 - 3e-4 * step + 0.02 * math.sin(3 * step)


@pytest.mark.parametrize(("value", "found"), [(0.99e-4, 1), (1.01e-4, 0)])
def test_a_straight_loss_is_found_at_larger_updates(value: float, found: int) -> None:
    """W10: a linear loss curve."""
    history = story(_ratio(value), loss=_straight)
    assert _found(history) == found
    if found:
        (finding,) = LearningRateTooLow()(history)
        assert "in a straight line" in finding.message


@pytest.mark.parametrize(
    "loss",
    [
        flat,
        lambda step: 2.1 + 0.2 * math.exp(-step / 50) + 0.02 * math.sin(3 * step),
        lambda step: 2.3 - 0.2 * max(0, step - 300) / 100 + 0.02 * math.sin(3 * step),
    ],
    ids=["flat", "levelling off", "setting in"],
)
def test_other_shapes_at_larger_updates_are_not(loss: Any) -> None:
    """Fine-tuning at 1e-5 moves weights by about 1e-4 a step, and settles."""
    assert _found(story(_ratio(5e-5), loss=loss)) == 0


def test_a_run_that_learns_is_healthy() -> None:
    assert _found(story(_ratio(2e-6), loss=healthy_loss)) == 0


@pytest.mark.parametrize(("end", "found"), [(2.08, 1), (2.06, 0)])
def test_a_tenth_of_the_loss_is_progress(end: float, found: int) -> None:
    history = story(_ratio(2e-6), loss=lambda step: 2.3 + (end - 2.3) * step / 399)
    assert _found(history) == found


def test_one_fast_layer_in_six_is_no_excuse_but_two_are() -> None:
    def change(fast: int) -> Any:
        def edit(step: int, values: Any) -> None:
            _ratio(2e-6)(step, values)
            for i in range(fast):
                values["update/ratio"][weight(i)] = 9e-4

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
