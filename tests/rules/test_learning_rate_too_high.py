"""`learning-rate-too-high`."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.learning_rate_too_high import LearningRateTooHigh
from rules.stories import STEPS, call, flat, healthy_loss, meta, story, weight


def _ratio(value: float, *, until: int = 10**9) -> Any:
    def change(step: int, values: Any) -> None:
        if step < until:
            values["update/ratio"] = dict.fromkeys(values["update/ratio"], value)
            values["update/norm"] = dict.fromkeys(values["update/norm"], 50 * value)

    return change


def _found(history: Any) -> int:
    return len(LearningRateTooHigh()(history))


def test_a_loss_that_stays_where_it_began_with_large_updates_is_found() -> None:
    """W6, W10."""
    (finding,) = LearningRateTooHigh()(story(_ratio(0.1), loss=lambda step: 2.3))
    assert finding.severity == "bad"
    assert finding.steps == (0, STEPS[-1])
    assert finding.evidence.value == 0.1
    assert finding.evidence.threshold == 0.03
    assert finding.evidence.observations == len(STEPS)
    assert finding.message == (
        f"Updates are too large: in {len(STEPS)} of {len(STEPS)} watched steps the typical weight "
        "changed by 0.03 of its size or more (usual: 0.001; median of those 0.1, at step 399 "
        "0.1), and the loss stands at 2.3, where it began."
    )


@pytest.mark.parametrize(
    ("loss", "what"),
    [
        (lambda step: 2.3 + step, "the loss went from 2.3 to"),
        (lambda step: 2.3 if step < 30 else math.nan, "the loss went from 2.3 to inf"),
        (lambda step: 2.3 if step % 200 < 100 else 0.5, "the loss is back at 2.3, after 0.5"),
    ],
)
def test_harm_to_the_loss_is_told(loss: Any, what: str) -> None:
    steps = [step for step in STEPS if step < 240]
    (finding,) = LearningRateTooHigh()(story(_ratio(0.1), loss=loss, steps=steps))
    assert finding.severity == "bad"
    assert what in finding.message


def test_large_updates_without_harm_are_healthy() -> None:
    """Small networks, weights behind a norm layer, Adam."""
    assert _found(story(_ratio(0.1), loss=healthy_loss)) == 0


def test_the_first_steps_of_adam_are_healthy() -> None:
    """Its first updates are as large as the learning rate, whatever the gradient."""
    for many in range(1, len(STEPS), 3):
        history = story(_ratio(0.2, until=12), loss=healthy_loss, steps=STEPS[:many])
        assert _found(history) == 0


def test_harm_with_usual_updates_has_another_cause() -> None:
    assert _found(story(loss=lambda step: 2.3 + step)) == 0
    assert _found(story(loss=flat)) == 0


@pytest.mark.parametrize(("large", "found"), [(range(6), 0), (range(150, 160), 1)])
def test_a_run_is_lost_to_the_updates_before_it_not_to_its_first_ones(
    large: Any, found: int
) -> None:
    """A broken batch after 200 steps that went well, whose first ones were large as Adam's are."""

    def change(step: int, values: Any) -> None:
        _ratio(0.1 if step in large else 1e-3 if step < 160 else math.nan)(step, values)

    steps = [step for step in STEPS if step < 220]
    history = story(change, loss=lambda s: healthy_loss(s) if s < 160 else math.nan, steps=steps)
    assert _found(history) == found


def test_a_bump_at_the_start_is_forgiven() -> None:
    """L2: what warm-up would have avoided."""
    loss = lambda step: 2.3 + 3 * math.exp(-((step - 6) ** 2) / 20) if step < 25 else 1.0  # noqa: E731
    for many in range(1, len(STEPS), 2):
        assert _found(story(_ratio(0.1, until=20), loss=loss, steps=STEPS[:many])) == 0


@pytest.mark.parametrize(("value", "until", "found"), [(0.031, 54, 1), (0.031, 46, 0)])
def test_how_far_the_weights_moved_decides(value: float, until: int, found: int) -> None:
    """One and a half times their own size: 0.031 a step for 49 steps."""
    assert _found(story(_ratio(value, until=until), loss=lambda step: 2.3)) == found


@pytest.mark.parametrize(("value", "found"), [(0.5, 1), (0.499, 0)])
def test_one_jump_decides(value: float, found: int) -> None:
    assert _found(story(_ratio(value, until=1), loss=lambda step: 2.3)) == found


def test_the_loss_is_given_time() -> None:
    for loss, patience in ((lambda step: 2.3, 100), (lambda step: 2.3 + step, 48)):
        early = [step for step in STEPS if step < patience]
        late = [step for step in STEPS if step <= patience + 3]
        assert _found(story(_ratio(0.3), loss=loss, steps=early)) == 0
        assert _found(story(_ratio(0.3), loss=loss, steps=late)) == 1


@pytest.mark.parametrize(("share", "found"), [(0.21, 1), (0.19, 0)])
@pytest.mark.parametrize(
    "loss",
    [lambda step: 2.3, lambda step: 2.3 if step == 0 else 9.2, lambda step: max(1.5, 2.3 - step)],
    ids=["stands", "has risen", "crawls"],
)
def test_updates_that_could_not_have_changed_the_loss_are_not_to_blame(
    share: float, found: int, loss: Any
) -> None:
    """A mean of all targets is the best answer to broadcast ones, whatever the learning rate."""

    def change(step: int, values: Any) -> None:
        _ratio(0.1)(step, values)
        values["gradient/total_norm"] = {"": 2.0}
        moved = share * loss(step) / 2.0
        values["update/norm"] = {weight(0): 0.6 * moved, weight(1): 0.8 * moved}

    def unknown(step: int, values: Any) -> None:
        _ratio(0.1)(step, values)
        del values["gradient/total_norm"]

    assert _found(story(change, loss=loss)) == found
    assert _found(story(unknown, loss=loss)) == 1


@pytest.mark.parametrize(("high", "found"), [(1, 1), (2, 0)])
def test_a_best_level_that_is_luck_was_never_won(high: int, found: int) -> None:
    """W15: single samples are easy or hard, and sixteen are now and then mostly easy."""

    def loss(step: int) -> float:
        return (2.5 if step % 16 < high else 0.5) if 64 <= step < 160 else 1.9

    steps = [step for step in STEPS if step < 240]
    history = story(_ratio(0.1), loss=lambda s: 2.3 if s == 0 else loss(s), steps=steps)
    messages = [finding.message for finding in LearningRateTooHigh()(history)]
    assert sum("is back at 1.9, after 0.5" in message for message in messages) == found


def test_a_few_losses_as_high_as_the_first_are_no_standstill() -> None:
    """W15: a loss of single samples swings between easy and hard ones."""
    losses = lambda step: 2.3 if step % 40 < 20 else 0.3  # noqa: E731
    for many in range(40, len(STEPS)):
        texts = [
            f.message
            for f in LearningRateTooHigh()(story(_ratio(0.1), loss=losses, steps=STEPS[:many]))
        ]
        assert not any("where it began" in text for text in texts)


@pytest.mark.parametrize(("samples", "gap", "found"), [(2.0, 0.6, 0), (3.0, 0.6, 1), (2.0, 0.4, 1)])
def test_what_batch_norm_over_two_samples_does_has_another_cause(
    samples: float, gap: float, found: int
) -> None:
    """W14: and of two images of many pixels it does nothing of the kind."""

    def change(step: int, values: Any) -> None:
        _ratio(0.1)(step, values)
        values["batch_norm/batch_size"] = {"net.1.norm#0": samples}
        values["batch_norm/mean_gap"] = {"net.1.norm#0": gap}

    assert _found(story(change, loss=lambda step: 2.3)) == found


def test_a_bump_at_the_top_of_a_warm_up_is_forgiven() -> None:
    """L2: four times the first loss for three dozen steps, and then it learns."""

    def loss(step: int) -> float:
        return 0.7 + 3.0 * math.exp(-((step - 20) ** 2) / 100) if step < 40 else healthy_loss(step)

    for many in range(1, len(STEPS)):
        assert _found(story(_ratio(0.3, until=60), loss=loss, steps=STEPS[:many])) == 0


@pytest.mark.parametrize(("cut", "found"), [(3, 1), (2, 0)])
def test_gradients_that_end_after_large_updates_are_harm(cut: int, found: int) -> None:
    def change(step: int, values: Any) -> None:
        _ratio(2.0 if step == 0 else 1e-3)(step, values)
        for i in range(cut if step > 20 else 0):
            values["gradient/norm"][weight(i)] = 0.0

    history = story(change, loss=lambda step: 2.3 if step < 20 else 2.0)
    assert _found(history) == found
    if found:
        (finding,) = LearningRateTooHigh()(history)
        assert "most weights get no gradient" in finding.message


def test_noise_around_a_small_gain_is_not_a_loss_of_it() -> None:
    def late(low: float) -> Any:
        return lambda step: 2.3 if step < 50 else low if step < 150 else 2.0

    assert _found(story(_ratio(0.1, until=100), loss=late(1.65))) == 0
    assert _found(story(_ratio(0.1, until=100), loss=late(1.55))) == 1


@pytest.mark.parametrize(("share", "found"), [(0.4, 1), (0.39, 0)])
def test_units_that_died_with_a_large_update_are_harm_enough(share: float, found: int) -> None:
    """W5: 40 % of the units."""

    def change(step: int, values: Any) -> None:
        values["dead_relu/fraction"][call(1)] = share if step >= 9 else 0.0
        _ratio(0.05 if step == 7 else 1e-3)(step, values)

    history = story(change, loss=lambda step: 2.3 * math.exp(-step / 800))
    assert _found(history) == found
    assert _found(story(change)) == 0  # it has learned all the same
    if found:
        (finding,) = LearningRateTooHigh()(history)
        assert finding.severity == "suspect"
        assert "40% of the units of `net.1.act/relu#0` died with them" in finding.message


@pytest.mark.parametrize(("peak", "found"), [(0.5, 1), (0.49, 0)])
def test_units_that_died_while_weights_were_replaced_are_harm_even_if_it_learns(
    peak: float, found: int
) -> None:
    """W5: Adam at 0.05 kills most of a layer in five steps, and the others learn what they can."""

    def change(step: int, values: Any) -> None:
        values["dead_relu/fraction"][call(1)] = 0.9 if step >= 9 else 0.0
        _ratio(peak if step == 7 else 1e-3)(step, values)

    assert _found(story(change, loss=lambda step: 2.3 * math.exp(-step / 100))) == found


@pytest.mark.parametrize(
    ("value", "risen", "found"),
    [(0.011, 0.7, 1), (0.011, 0.55, 0), (0.009, 0.7, 0)],
    ids=["risen", "less", "small steps"],
)
def test_a_loss_at_several_times_its_best_while_steps_stay_large_is_suspect(
    value: float, risen: float, found: int
) -> None:
    """W12: three times its best level, and a third of a large update."""

    def change(step: int, values: Any) -> None:
        _ratio(0.6 if step == 0 else value)(step, values)

    history = story(change, loss=lambda s: 2.3 if s == 0 else 0.2 if s < 200 else risen)
    assert _found(history) == found
    if found:
        (finding,) = LearningRateTooHigh()(history)
        assert finding.severity == "suspect"
        assert "the loss has risen to 0.7, after 0.2" in finding.message


@pytest.mark.parametrize(
    ("value", "level", "early", "found"),
    [(0.0051, 0.5, 0.3, 1), (0.0049, 0.5, 0.3, 0), (0.0051, 0.22, 0.3, 0), (0.0051, 0.5, 0.1, 0)],
    ids=["wanders", "small steps", "has learned", "moved little"],
)
def test_steps_that_stay_large_while_it_learns_are_a_note(
    value: float, level: float, early: float, found: int
) -> None:
    def change(step: int, values: Any) -> None:
        _ratio(early if step < 8 else value)(step, values)

    history = story(change, loss=lambda step: 2.3 if step < 50 else level)
    findings = LearningRateTooHigh()(history)
    assert [finding.severity for finding in findings] == ["note"] * found
    if found:
        assert "the newest ten still by 0.0051 or more" in findings[0].message


def test_units_that_were_dead_at_the_first_look_died_of_something_else() -> None:
    def change(step: int, values: Any) -> None:
        values["dead_relu/fraction"][call(1)] = 0.9
        _ratio(0.05, until=12)(step, values)

    assert _found(story(change)) == 0


def test_tanhs_that_saturated_while_the_loss_does_not_halve_are_harm() -> None:
    def change(step: int, values: Any) -> None:
        values["activation/saturated_fraction"][call(1, "tanh")] = 0.9 if step > 10 else 0.1
        _ratio(0.1, until=50)(step, values)

    slow = story(change, function="tanh", loss=lambda step: 2.3 - 0.002 * step)
    (finding,) = LearningRateTooHigh()(slow)
    assert "`net.1.act/tanh#0` has saturated for 90% of its inputs" in finding.message
    assert _found(story(change, function="tanh", loss=healthy_loss)) == 0


@pytest.mark.parametrize(("value", "found"), [(0.02, 1), (0.0199, 0)])
def test_updates_that_stay_large_while_the_loss_crawls_are_suspect(
    value: float, found: int
) -> None:
    """W10: the loss falls, then stalls too high."""
    history = story(_ratio(value), loss=lambda step: 2.3 if step < 50 else 1.5)
    assert _found(history) == found


@pytest.mark.parametrize(("decay", "found"), [(0.049, 1), (0.051, 0)])
def test_updates_that_are_decay_are_told_by_another_rule(decay: float, found: int) -> None:
    """A rate of 1 and a decay of 0.05 are half of an update of 0.1."""

    def change(step: int, values: Any) -> None:
        _ratio(0.1)(step, values)
        values["lr/value"] = {"SGD/group0": 1.0}

    about = meta()
    about["optimizers"] = [{"class": "SGD", "groups": [{"lr": 1.0, "weight_decay": decay}]}]
    assert _found(story(change, loss=lambda step: 2.3, about=about)) == found


def test_weights_that_start_at_zero_do_not_count() -> None:
    """P37: at first, each step changes them by their own size."""
    zero = [weight(i) for i in range(0, 6, 2)]

    def change(step: int, values: Any) -> None:
        for name in zero:
            values["update/ratio"][name] = 1.0 / max(step, 1)
        if step == 0:
            for name in zero:
                del values["update/ratio"][name]

    assert _found(story(change, loss=lambda step: 2.3)) == 0


def test_weights_that_turned_to_nan_do_not_count() -> None:
    """NaN in a batch is `non-finite`, and nothing else."""

    def change(step: int, values: Any) -> None:
        if step > 100:
            _ratio(math.nan)(step, values)

    assert _found(story(change, loss=lambda s: math.nan if s > 100 else healthy_loss(s))) == 0


def test_the_start_of_the_run_must_be_known() -> None:
    """A resumed run begins with a low loss, and cannot fall far."""
    history = story(_ratio(0.1), loss=lambda step: 0.1, steps=range(5000, 5400, 3))
    verdict = LearningRateTooHigh().check(history)
    assert isinstance(verdict, NotObserved)
    assert verdict.reason == "the first steps of the run are not known"


@pytest.mark.parametrize(
    ("about", "loss", "reason"),
    [
        (meta(optimizers=["Adam", "Adam"]), flat, "several optimizers share one loss curve"),
        (meta(frozen=range(6)), flat, "no optimizer holds a weight of two dimensions or more"),
        (meta(), lambda step: -5.0, "the first loss is not above 0, so that progress has no scale"),
    ],
)
def test_what_cannot_be_judged_is_not_observed(about: Any, loss: Any, reason: str) -> None:
    verdict = LearningRateTooHigh().check(story(_ratio(0.1), loss=loss, about=about))
    assert verdict == NotObserved("learning-rate-too-high", reason)
