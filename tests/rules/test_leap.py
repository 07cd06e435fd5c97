"""Leaps of the loss, and which of them came out of the blue."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from lightning_diag.finding import Event, Evidence, Finding, Severity
from lightning_diag.history import History
from lightning_diag.rules.causes import explain
from lightning_diag.rules.events import what_happened
from lightning_diag.rules.leap import (
    LEAP,
    ends_epoch,
    leap_at,
    out_of_the_blue,
    samples_behind,
)
from rules.fit_stories import Curve, learning, noisy
from rules.stories import STEPS, Values, meta, story

AT = 240
"""A step that is watched."""


def _leapt(height: float = 40.0) -> Curve:
    base = noisy(learning, 0.1)
    return lambda step: height if step == AT else base(step)


def _run(
    loss: Curve | None = None,
    *,
    rate: Callable[[int], float] = lambda step: 0.1,
    ratio: Callable[[int], float] = lambda step: 2e-3,
    about: dict[str, Any] | None = None,
) -> History:
    def change(step: int, values: Values) -> None:
        values["lr/value"] = {"SGD/group0": rate(step)}
        values["update/ratio"] = dict.fromkeys(values["update/ratio"], ratio(step))

    return story(change, loss=loss or _leapt(), steps=STEPS, about=about)


def _found(history: History) -> int | None:
    leap = out_of_the_blue(history, 0, 399)
    return leap.step if leap else None


def test_one_batch_in_a_run_that_goes_well_is_out_of_the_blue() -> None:
    """P47."""
    leap = out_of_the_blue(_run(), AT - 9, AT)
    assert leap is not None
    assert (leap.step, leap.loss) == (AT, 40.0)
    assert out_of_the_blue(_run(), AT + 1, 399) is None
    assert out_of_the_blue(_run(), 0, AT - 1) is None


def test_steps_that_are_large_only_after_it_did_not_bring_it_about() -> None:
    assert _found(_run(ratio=lambda step: 0.5 if step >= AT else 2e-3)) == AT
    assert _found(_run(ratio=lambda step: 0.5 if step < 20 else 2e-3)) == AT


def test_a_large_step_before_may_have_brought_it_about() -> None:
    assert _found(_run(ratio=lambda step: 0.04 if step == AT - 6 else 2e-3)) is None


def test_a_learning_rate_that_rose_or_is_rising_may_have_brought_it_about() -> None:
    assert _found(_run(rate=lambda step: 0.1 if step < AT - 30 else 0.2)) is None
    assert _found(_run(rate=lambda step: 1e-3 * step)) is None
    assert _found(_run(rate=lambda step: 0.1 * 0.99**step)) == AT


def test_waves_that_grow_led_up_to_it() -> None:
    base = noisy(learning, 0.1)

    def rising(step: int) -> float:
        return base(step) * (3.0 ** (step - AT + 5) if AT - 5 < step <= AT + 5 else 1.0)

    assert _found(_run(rising)) is None


def test_a_loss_that_had_already_risen_was_not_calm() -> None:
    def risen(step: int) -> float:
        return _leapt()(step) + (0.5 if AT - 60 < step < AT else 0.0)

    assert _found(_run(risen)) is None


def test_a_loss_that_never_learned_was_not_calm() -> None:
    base = noisy(lambda step: 2.3, 0.02)
    assert _found(_run(lambda step: 40.0 if step == AT else base(step))) is None


def test_players_of_a_game_share_a_curve_that_says_nothing() -> None:
    assert _found(_run(about=meta(optimizers=["Adam", "Adam"]))) is None


def test_a_leap_is_measured_by_its_highest_of_three_steps() -> None:
    losses = [1.0, 2.0] * 32
    for after, height in (([3.0, 9.0, 4.0], 9.0), ([3.0, math.nan], math.inf), ([3.0], 3.0)):
        leap = leap_at(range(70), [*losses, *after], 64)
        assert leap is not None
        assert (leap.loss, leap.level, leap.highest) == (height, 1.5, 2.0)
    assert leap_at(range(70), [*losses, 2.0, 9.0], 64) is None
    assert leap_at(range(70), [*losses, math.inf], 64) is None
    assert leap_at(range(70), losses, 63) is None


def test_it_is_told_as_what_happened_just_before() -> None:
    (event,) = what_happened(_run(), AT)
    assert (event.kind, event.step) == (LEAP, AT)
    assert "while it was near its best" in event.text
    assert what_happened(_run(), AT - 20) == ()


def test_samples_behind_a_loss_are_those_of_all_its_batches() -> None:
    def about(**more: Any) -> dict[str, Any]:
        losses = {"cross_entropy#0": {"input_shape": [32, 10]}}
        trainer = {"accumulate_grad_batches": 2, "world_size": 2}
        return {**meta(), "losses": losses, "trainer": trainer, **more}

    assert samples_behind(_run(about=about())) == 128
    assert samples_behind(_run()) == 0
    left_over = _run(about=about(train_samples=1000))
    assert [step for step in range(20) if ends_epoch(left_over, step)] == [7, 15]
    assert not ends_epoch(_run(about=about(train_samples=1024)), 7)
    assert ends_epoch(_run(), 3)  # not known


# What it explains --------------------------------------------------------------------------------


def _finding(code: str, first: int, severity: Severity = "bad", *, leapt: bool = False) -> Finding:
    before = (Event(LEAP, AT, "The loss leapt."),) if leapt else ()
    evidence = Evidence(1.0, 0.5, 10, 5)
    return Finding(code, severity, "It is.", "Mend it.", (), (first, 399), evidence, before=before)


@pytest.mark.parametrize(
    ("leapt", "noticed", "roots"),
    [
        (True, AT + 5, ["loss-spike"]),
        (True, AT - 50, ["learning-rate-too-high", "loss-spike"]),
        (False, AT + 5, ["learning-rate-too-high"]),
    ],
)
def test_large_steps_noticed_after_a_leap_out_of_the_blue_are_its_consequence(
    leapt: bool, noticed: int, roots: list[str]
) -> None:
    """However large the first steps of the run were, they had done no harm."""
    findings = [
        _finding("learning-rate-too-high", 5),
        _finding("exploding-gradient", AT + 1),
        _finding("non-finite", AT + 4),
        _finding("loss-spike", AT, "suspect", leapt=leapt),
    ]
    seen = {"learning-rate-too-high": noticed}
    found = explain(findings, story(steps=[0]), (), seen)
    assert [f.code for f in found if f.caused_by is None] == roots
    rate = next(f for f in found if f.code == "learning-rate-too-high")
    if roots == ["loss-spike"]:
        assert "It was noticed only after the leap." in rate.because
        assert "The loss leapt." in rate.because


def test_one_odd_batch_that_did_no_harm_explains_none() -> None:
    findings = [
        _finding("exploding-gradient", AT),
        _finding("loss-spike", AT, "note", leapt=True),
    ]
    found = explain(findings, story(steps=[0]))
    assert [f.caused_by for f in found] == [None, None]
