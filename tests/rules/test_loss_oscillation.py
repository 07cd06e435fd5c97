"""`loss-oscillation`."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_diag.finding import Finding
from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.loss_oscillation import LossOscillation
from lightning_diag.rules.swing import detrended, opposite, zigzag
from rules.fit_stories import LONG, Curve, bouncing, classes, noisy, rng, validated
from rules.stories import meta, story


def _found(loss: Curve, change: Any = None, **settings: float) -> Finding | None:
    findings = LossOscillation(**settings)(story(change, loss=loss, steps=LONG))
    return findings[0] if findings else None


def _updates(ratio: float) -> Any:
    def change(step: int, values: Any) -> None:
        values["update/ratio"] = dict.fromkeys(values["update/ratio"], ratio)

    return change


def _restless(share: float) -> Curve:
    """Return a loss that was calm at first, and is noisy at one level since step 400."""
    draws = [rng(1).gauss(0, share)] + [rng(i).gauss(0, share) for i in range(1, 1700)]
    return lambda step: 1.0 + math.exp(-step / 30) + (draws[step] if step >= 400 else 0.0)


def test_jumping_across_the_valley_is_found() -> None:
    """W10."""
    finding = _found(bouncing)
    assert finding is not None
    assert finding.severity == "suspect"
    assert "1 steps later the loss is on the other side" in finding.message
    assert finding.evidence.window == 128


@pytest.mark.parametrize("period", [2, 3, 8, 21, 48])
def test_swings_of_any_length_up_to_sixty_steps_are_regular(period: int) -> None:
    loss = noisy(lambda step: 2.0 + 0.8 * math.cos(2 * math.pi * step / period), 0.05)
    assert _found(loss) is not None


@pytest.mark.parametrize(("half", "found"), [(0.5, True), (0.4, False)])
def test_the_size_of_the_swings_decides(half: float, found: bool) -> None:
    """A square wave of 0.15 of the first loss has that as its deviation, times 2 / 2.563."""
    finding = _found(lambda step: 2.56 + (half if step % 2 else -half), swing=0.15)
    assert (finding is not None) is found


@pytest.mark.parametrize(
    ("samples", "ratio", "found"), [(128, 0.02, True), (32, 0.02, False), (128, 0.004, False)]
)
def test_swings_beyond_what_many_samples_differ_by_are_found(
    samples: int, ratio: float, found: bool
) -> None:
    """The loss was never calm, and 128 samples do not differ so much."""
    about = {**meta(), **classes(10)}
    about["losses"]["cross_entropy#0"]["input_shape"] = [samples, 10]
    loss = noisy(lambda step: 1.0 + math.exp(-step / 30), 0.4)
    history = story(_updates(ratio), loss=loss, steps=LONG, about=about)
    findings = LossOscillation()(history)
    assert bool(findings) is found
    if found:
        assert "batches of 128 samples alone differ by" in findings[0].message


def test_validation_that_swings_by_far_less_than_batches_explains_nothing() -> None:
    """Batches of two: what the weights do is a quarter of what the batches do."""
    noise = rng(3)
    loss = noisy(lambda step: 2.0, 0.5)
    swings = [noise.uniform(1.6, 2.4) for _ in range(2000)]
    history = validated({"val_loss": lambda s: swings[s]}, loss=loss, steps=LONG)
    assert LossOscillation()(history) == []


@pytest.mark.parametrize("skew", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_batches_that_differ_are_no_oscillation(seed: int, skew: bool) -> None:
    """W10: the noise of small batches, with updates of a usual size."""
    loss = noisy(lambda step: 1.0 + math.exp(-step / 60), 0.8, skew=skew, seed=seed)
    assert _found(loss, _updates(2e-3)) is None
    assert _found(loss, _updates(0.02)) is None


def test_noise_that_came_with_large_updates_is_found() -> None:
    finding = _found(_restless(0.6), _updates(0.02))
    assert finding is not None
    assert "the typical weight changes by 0.02" in finding.message
    assert _found(_restless(0.6), _updates(0.004)) is None


@pytest.mark.parametrize("seed", range(6))
def test_few_samples_that_are_mostly_right_have_a_long_tail(seed: int) -> None:
    """Batches of two, and long steps: the upper tenth is far away, the quartiles are not."""
    draw = rng(seed)
    tails = [draw.expovariate(1.0) ** 2 for _ in range(1700)]

    def loss(step: int) -> float:
        return 0.1 + 0.3 * tails[step] + 1.5 * math.exp(-step / 60)

    assert _found(loss, _updates(0.02)) is None


def test_validation_that_swings_is_a_witness() -> None:
    """No batch explains it."""
    noise = rng(3)
    loss = noisy(lambda step: 2.0, 0.3)
    swings = [noise.uniform(1.0, 3.0) for _ in range(2000)]
    history = validated({"val_loss": lambda s: swings[s]}, loss=loss, steps=LONG)
    (finding,) = LossOscillation()(history)
    assert "validation swings as well" in finding.message
    calm = validated({"val_loss": lambda s: 2.0 + 0.01 * swings[s]}, loss=loss, steps=LONG)
    assert LossOscillation()(calm) == []


def test_the_order_of_an_epoch_is_no_oscillation() -> None:
    """Batches that come in the same order repeat their losses, and are no wave."""
    batches = [rng(5).uniform(0.5, 2.0)] + [rng(i).uniform(0.5, 2.0) for i in range(1, 40)]
    assert _found(lambda step: batches[step % 40]) is None


def test_rates_that_rise_and_fall_are_no_oscillation() -> None:
    """L4: with cyclic rates the loss swings a little, and falls all the time."""

    def loss(step: int) -> float:
        return 0.02 + 2.3 * math.exp(-step / 150) * (1 + 0.3 * math.sin(step / 20))

    assert _found(loss) is None


def test_a_noisy_loss_that_falls_still_learns() -> None:
    assert _found(noisy(lambda step: 2.5 - step / 800, 0.4), _updates(0.02)) is None


def test_a_loss_that_has_diverged_is_another_finding() -> None:
    assert _found(lambda step: bouncing(step) * (1 if step < 100 else 20)) is None


def test_losses_that_are_not_finite_or_not_above_zero_are_not_judged() -> None:
    assert _found(lambda step: math.nan if step == 1590 else bouncing(step)) is None
    assert _found(lambda step: bouncing(step) - 10) is None


def test_a_short_run_is_not_judged() -> None:
    verdict = LossOscillation().check(story(loss=bouncing, steps=range(300)))
    assert isinstance(verdict, NotObserved)


def test_players_of_a_game_are_not_judged() -> None:
    about = meta(optimizers=["Adam", "Adam"])
    assert LossOscillation()(story(loss=bouncing, steps=LONG, about=about)) == []


# Slow waves -------------------------------------------------------------------------------------


def _waves(size: float, since: int = 300, until: int = 2000) -> Curve:
    """Return a loss that went down, and then rises and falls over hundreds of steps."""

    def loss(step: int) -> float:
        if since < step < until:
            return 0.3 + size * (1 - math.cos((step - since) / 80)) / 2
        return 0.3 + 2.0 * math.exp(-step / 40)

    return noisy(loss, 0.05)


def test_levels_that_rise_and_fall_and_rise_are_found() -> None:
    """Too much momentum: the weights roll past the minimum and back."""
    finding = _found(_waves(0.8))
    assert finding is not None
    assert "rises and falls in slow waves" in finding.message
    assert finding.steps[0] >= 256


@pytest.mark.parametrize(("size", "found"), [(0.35, True), (0.15, False)])
def test_the_size_of_the_waves_decides(size: float, found: bool) -> None:
    """A tenth of the first loss, which is 2.3."""
    assert (_found(_waves(size)) is not None) is found


def test_one_rise_is_an_accident() -> None:
    assert _found(_waves(0.8, until=700)) is None


def test_waves_that_passed_are_over() -> None:
    assert _found(_waves(0.8, since=100, until=950)) is None


def test_rises_after_the_learning_rate_rose_are_restarts() -> None:
    def change(step: int, values: Any) -> None:
        values["lr/value"] = {"SGD/group0": 0.1 if step % 500 < 250 else 0.01}

    assert _found(_waves(0.8), change) is None


@pytest.mark.parametrize("seed", range(6))
def test_single_samples_make_no_waves(seed: int) -> None:
    loss = noisy(lambda step: 0.2 + math.exp(-step / 100), 1.0, skew=True, seed=seed)
    assert _found(loss) is None


def test_turns_are_those_of_a_size() -> None:
    assert zigzag([2.0, 1.0, 1.9, 1.0, 3.0], least=1.0) == [3, 4]
    assert zigzag([2.0, 1.0, 2.1, 1.0, 3.0], least=1.0) == [1, 2, 3, 4]
    assert zigzag([1.0], least=1.0) == [0]


# Swings -----------------------------------------------------------------------------------------


def test_a_loss_that_came_down_and_went_up_again_is_not_falling() -> None:
    """Its newest quarter is lower than the one before, and higher than the two before that."""

    def loss(step: int) -> float:
        return bouncing(step) + (1.5 if 800 <= step < 1200 else 0.6 if step >= 1200 else 0.0)

    assert _found(loss) is not None


def test_a_first_loss_that_was_low_by_luck_is_no_scale() -> None:
    """Fine-tuning: swings of a hundredth of chance are what batches differ by."""

    def loss(step: int) -> float:
        return 0.02 + (0.01 if step % 2 else -0.01)

    assert _found(loss) is not None
    assert LossOscillation()(story(loss=loss, steps=LONG, about={**meta(), **classes(10)})) == []


def test_a_line_is_taken_off() -> None:
    assert detrended([1.0, 2.0, 3.0, 4.0]) == pytest.approx([0, 0, 0, 0])
    assert detrended([5.0, 1.0, 1.0, 5.0]) == pytest.approx([2, -2, -2, 2])


def test_the_opposite_of_a_wave_is_half_a_wave_away() -> None:
    wave = [math.sin(2 * math.pi * i / 20) for i in range(128)]
    distance, correlation = opposite(wave)
    assert distance in {8, 9, 10}
    assert correlation < -0.8


@pytest.mark.parametrize("settings", [{"swing": -1}, {"regular": 2}, {"ratio": -1}])
def test_thresholds_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        LossOscillation(**settings)
