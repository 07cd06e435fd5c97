"""What happened just before a problem began."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from lightning_diag.finding import Event
from lightning_diag.history import History
from lightning_diag.rules.events import what_happened
from rules.stories import STEPS, Values, story


def run(
    rate: Callable[[int], float] = lambda step: 0.1,
    norm: Callable[[int], float] = lambda step: 1.0,
    steps: Sequence[int] = tuple(STEPS),
) -> History:
    """Return a run with a learning rate and a gradient norm at each step."""

    def change(step: int, values: Values) -> None:
        values["lr/value"] = {"SGD/group0": rate(step)}
        values["gradient/total_norm"] = {"": norm(step)}

    return story(change, steps=steps)


def test_a_learning_rate_that_rose_is_told_with_its_step() -> None:
    (event,) = what_happened(run(rate=lambda step: 0.1 if step < 60 else 1.0), 63)
    text = "The learning rate of `SGD/group0` rose from 0.1 to 1 at step 60."
    assert event == Event("lr-rise", 60, text)


def test_a_learning_rate_that_fell_is_told_too() -> None:
    (event,) = what_happened(run(rate=lambda step: 0.1 if step < 60 else 0.01), 63)
    assert event.kind == "lr-fall"
    assert "fell from 0.1 to 0.01" in event.text


def test_a_gradient_that_jumped_is_told_with_its_step() -> None:
    (event,) = what_happened(run(norm=lambda step: 50.0 if step == 60 else 1.0), 63)
    text = "The gradient norm jumped from 1 to 50 at step 60."
    assert event == Event("gradient-spike", 60, text)


@pytest.mark.parametrize("step", [51, 90, 300])
def test_what_happened_long_before_or_after_is_not_told(step: int) -> None:
    history = run(
        rate=lambda step: 0.1 if step < 60 else 1.0, norm=lambda s: 50.0 if s == 60 else 1.0
    )
    assert what_happened(history, step) == ()


@pytest.mark.parametrize("every", [1, 3, 50])
def test_warm_up_decay_and_noise_are_no_events(every: int) -> None:
    """P20: what every other run does explains nothing."""
    steps = range(0, 400, every)
    history = run(
        rate=lambda step: 0.1 * min(1, (step + 1) / 100) * 0.99 ** max(0, step - 100),
        norm=lambda step: 1.0 + (step % 7),
        steps=list(steps),
    )
    early = [step for step in steps if step < 8 * every]
    assert [what_happened(history, step) for step in steps if step not in early] == [()] * (
        len(steps) - len(early)
    )


def test_a_run_without_such_numbers_has_no_events() -> None:
    assert what_happened(story(lambda step, values: values.clear()), 60) == ()
    assert what_happened(History(), 60) == ()
