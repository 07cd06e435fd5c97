"""`underfitting`."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_diag.finding import Finding
from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.underfitting import Underfitting
from rules.fit_stories import LONG, Curve, classes, learning, noisy, validated
from rules.stories import flat, meta, story


def _settled(level: float) -> Curve:
    return noisy(lambda step: level + (2.3 - level) * math.exp(-step / 40), 0.03)


def _found(loss: Curve, change: Any = None, **about: Any) -> Finding | None:
    known = {**meta(), **classes(10), **about}
    findings = Underfitting()(story(change, loss=loss, steps=LONG, about=known))
    return findings[0] if findings else None


def test_a_loss_that_settles_high_is_a_note() -> None:
    """W11: too small a model, or noise; numbers alone cannot tell."""
    finding = _found(_settled(1.5))
    assert finding is not None
    assert finding.severity == "note"
    assert "Either the model is too small, or the targets hold that much noise." in finding.message
    assert finding.steps == (800, 1599)


def test_a_model_that_could_learn_all_by_heart_is_suspect() -> None:
    finding = _found(_settled(1.5), train_samples=1000)
    assert finding is not None
    assert finding.severity == "suspect"
    assert "6,144 weights for 1,000 targets" in finding.message


@pytest.mark.parametrize(
    ("level", "severity"), [(1.25, "suspect"), (1.05, "note"), (0.75, "note"), (0.6, None)]
)
def test_shares_of_what_knowing_nothing_gives_decide(level: float, severity: str | None) -> None:
    """Half of ln 10, and three tenths of it."""
    finding = _found(_settled(level), train_samples=1000)
    assert (finding.severity if finding else None) == severity


def test_a_loss_that_hardly_falls_is_a_note_and_no_more() -> None:
    def slow(step: int) -> float:
        return 1.7 + 0.6 * math.exp(-step / 200) - step / 4_500

    finding = _found(noisy(slow, 0.03), train_samples=1000)
    assert finding is not None
    assert finding.severity == "note"


def test_a_loss_that_will_be_low_before_long_is_nothing() -> None:
    """Of what it lost in the newest quarter, twice as much again takes it below the threshold."""
    assert _found(noisy(lambda step: 0.72 + 0.8 * math.exp(-step / 700), 0.03)) is None


def test_samples_that_were_not_seen_twice_are_not_learned_yet() -> None:
    known = {"function": "cross_entropy", "reduction": "mean", "classes": 10}
    losses = {"cross_entropy#0": {**known, "input_shape": [32, 10]}}
    for samples, found in [(1600 * 32 // 3, True), (1600 * 32, False)]:
        finding = _found(_settled(1.5), losses=losses, train_samples=samples)
        assert (finding is not None) is found


def test_a_sample_with_many_targets_is_as_many_to_learn() -> None:
    known = {"function": "cross_entropy", "reduction": "mean", "classes": 10}
    for shape, severity in [([32], "suspect"), ([32, 6], "suspect"), ([32, 7], "note")]:
        losses = {"cross_entropy#0": {**known, "target_shape": shape}}
        finding = _found(_settled(1.5), losses=losses, train_samples=1000)
        assert finding is not None
        assert finding.severity == severity


def test_few_validation_samples_may_differ_by_some_per_cent() -> None:
    options: dict[str, Any] = {"loss": _settled(1.2), "steps": LONG, "more": classes(10)}
    near = validated({"val_loss": lambda step: 1.5}, **options)
    far = validated({"val_loss": lambda step: 1.6}, **options)
    assert [bool(Underfitting()(history)) for history in (near, far)] == [True, False]


def test_a_loss_that_still_falls_is_nothing() -> None:
    assert _found(noisy(lambda step: 2.3 - step / 2000, 0.03)) is None


def test_a_loss_too_noisy_to_tell_is_nothing() -> None:
    """W10: batches of one sample."""
    assert _found(noisy(lambda step: 1.6 - step / 8000, 0.9, skew=True)) is None


def test_a_loss_that_never_moved_is_another_finding() -> None:
    assert _found(flat) is None


def test_a_loss_that_was_lower_is_another_finding() -> None:
    assert _found(lambda step: learning(step) if step < 300 else 1.5) is None


def test_a_schedule_that_ended_early_is_no_lack_of_capacity() -> None:
    """L4: the rate has gone down for most of the run."""

    def change(step: int, values: Any) -> None:
        values["lr/value"] = {"SGD/group0": 0.1 if step < 50 else 1e-4}

    assert _found(_settled(1.5), change) is None


def test_weights_that_do_not_move_had_no_occasion() -> None:
    """W6: a learning rate that is far too low."""

    def change(step: int, values: Any) -> None:
        values["update/ratio"] = dict.fromkeys(values["update/ratio"], 1e-5)

    assert _found(_settled(1.5), change) is None


@pytest.mark.parametrize(("validation", "found"), [(1.55, True), (2.2, False), (1.0, False)])
def test_validation_must_be_as_bad(validation: float, found: bool) -> None:
    history = validated(
        {"val_loss": lambda step: validation}, loss=_settled(1.5), steps=LONG, more=classes(10)
    )
    assert bool(Underfitting()(history)) is found


def test_a_short_run_or_one_with_a_single_validation_is_not_judged() -> None:
    assert isinstance(
        Underfitting().check(story(loss=_settled(1.5), steps=range(300))), NotObserved
    )
    rare = validated({"val_loss": _settled(1.5)}, loss=_settled(1.5), steps=LONG, every=900)
    assert isinstance(Underfitting().check(rare), NotObserved)


@pytest.mark.parametrize(
    "settings", [{"high": 2}, {"high": 0.96}, {"higher": 0.2}, {"learnt": 2}, {"patience": 64}]
)
def test_thresholds_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Underfitting(**settings)
