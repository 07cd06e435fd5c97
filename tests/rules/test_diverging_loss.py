"""`diverging-loss`."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.diverging_loss import DivergingLoss
from rules.fit_stories import Curve, classes, noisy
from rules.stories import STEPS, flat, healthy_loss, lines, meta, run_of, story


def _large(step: int, values: Any) -> None:
    values["update/ratio"] = dict.fromkeys(values["update/ratio"], 0.2)


def _found(loss: Curve, change: Any = None, **settings: Any) -> str | None:
    findings = DivergingLoss(**settings)(story(change, loss=loss))
    return findings[0].severity if findings else None


def test_three_times_the_first_loss_is_found() -> None:
    """W12."""
    (finding,) = DivergingLoss()(story(loss=lambda step: 2.0 + 0.1 * step))
    assert finding.severity == "bad"
    assert finding.steps == (48, 399)
    assert finding.message == (
        "The loss has grown to 41.2, 20.6 times the 2 of the first step (threshold 3 times); three "
        "in four of the newest 16 steps are above 40.8."
    )


@pytest.mark.parametrize(("level", "severity"), [(6.1, "bad"), (5.9, None)])
def test_the_factor_decides(level: float, severity: str | None) -> None:
    assert _found(lambda step: 2.0 if step < 50 else level, _large) == severity


def test_a_low_first_loss_by_luck_is_no_divergence() -> None:
    """W10: with a batch of one sample the first loss says little."""
    curve = noisy(lambda step: 2.0, 1.0, skew=True)
    assert _found(lambda step: 0.1 if step == 0 else 0.5 + curve(step)) is None


@pytest.mark.parametrize(("every", "severity"), [(16, None), (17, "bad")])
def test_a_first_loss_as_low_as_others_still_are_is_no_divergence(
    every: int, severity: str | None
) -> None:
    """W10: losses of single samples swing far, and large updates do not change that."""
    last = STEPS[-1]
    assert _found(lambda s: 0.1 if s == 0 or (last - s) % every == 15 else 2.0, _large) == severity


def test_a_jump_in_the_first_steps_needs_large_updates_or_a_large_factor() -> None:
    assert _found(lambda step: 1.0 if step == 0 else 5.0, _large) == "bad"
    assert _found(lambda step: 1.0 if step == 0 else 5.0) is None
    assert _found(lambda step: 1.0 if step == 0 else 50.0) == "suspect"
    assert _found(lambda step: 1.0 if step == 0 else 50.0, _large) == "bad"


def _known(loss: Curve, change: Any = None) -> str | None:
    about = {**meta(), **classes(10)}
    findings = DivergingLoss()(story(change, loss=loss, about=about))
    return findings[0].severity if findings else None


def _nearly_zero(level: float) -> Curve:
    """Return the loss of fine-tuning whose first batch was known to the model."""
    return lambda step: 0.001 if step == 0 else level * (1 - 0.7 * math.exp(-step / 60))


@pytest.mark.parametrize("change", [None, _large])
@pytest.mark.parametrize("level", [0.01, 0.1, 0.6])
def test_fine_tuning_that_starts_near_zero_is_never_bad(level: float, change: Any) -> None:
    """A multiple of next to nothing is little of what there is to lose, ln 10."""
    assert _known(_nearly_zero(level), change) is None
    assert _found(_nearly_zero(level)) != "bad"


def test_fine_tuning_that_loses_what_the_model_knew_is_found() -> None:
    """P1: catastrophic steps take it to chance, or beyond."""
    assert _known(_nearly_zero(2.3)) == "suspect"
    assert _known(_nearly_zero(20.0)) == "bad"
    assert _known(lambda step: 2.3 + 0.1 * step) == "bad"


def test_a_loss_on_its_way_back_is_left_alone() -> None:
    assert _found(lambda step: 2.0 + 500 * math.exp(-(((step - 250) / 60) ** 2)), _large) is None


def test_a_bump_at_the_start_is_healthy() -> None:
    """P20: a short one is over before the loss is judged."""
    assert _found(lambda step: healthy_loss(step) + 40 * math.exp(-step / 6), _large) is None


@pytest.mark.parametrize(("back", "severity"), [(2.2, "suspect"), (1.8, None)])
def test_losing_all_that_was_won_is_found(back: float, severity: str | None) -> None:
    """W12, against the best level: 0.3 after 2.3."""
    assert _found(lambda step: healthy_loss(step) if step < 200 else back) == severity


def test_a_restart_of_the_learning_rate_is_no_divergence() -> None:
    """L4: warm restarts give some of the loss back, and soon win it again."""

    def loss(step: int) -> float:
        since = step % 150
        return healthy_loss(step) + (0.6 * math.exp(-since / 12) if step >= 150 else 0.0)

    assert _found(loss) is None


def test_a_loss_that_never_won_is_not_back() -> None:
    assert _found(flat) is None


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_the_unit_of_the_loss_does_not_matter(scale: float) -> None:
    assert _found(lambda step: scale * (2.0 + 0.1 * step)) == "bad"
    assert _found(lambda step: scale * healthy_loss(step)) is None


def test_a_loss_below_zero_may_fall_and_may_be_lost() -> None:
    def falling(step: int) -> float:
        return -1.0 - 3 * (1 - math.exp(-step / 60))

    assert _found(falling) is None
    assert _found(lambda step: 0.5 - step / 100) is None
    assert _found(lambda step: falling(step) if step < 200 else -0.9) == "suspect"


def test_numbers_that_overflow_are_told_from_the_last_finite_ones() -> None:
    def loss(step: int) -> float:
        return 2.0 * 1.1**step if step < 120 else math.nan

    (finding,) = DivergingLoss()(story(loss=loss))
    assert finding.severity == "bad"
    assert math.isfinite(finding.evidence.value)


@pytest.mark.parametrize(("run_up", "found"), [([40.0, 1e9], True), ([1.0, 1e9], False)])
def test_a_loss_that_ran_away_within_a_few_steps_is_found(run_up: list[float], found: bool) -> None:
    """One loss out of range may be its batch; two in a row are the weights."""

    def loss(step: int) -> float:
        if step < 380:
            return 0.1 + math.exp(-step / 60)
        return run_up[step - 380] if step < 382 else math.nan

    findings = DivergingLoss()(story(loss=loss))
    assert [f.severity for f in findings] == ["bad"] * found
    if found:
        assert "ran away: 40 at step 380, 1e+09 at step 381" in findings[0].message
        assert findings[0].steps[0] == 380


def test_gaps_of_nan_are_left_out() -> None:
    assert _found(lambda step: math.nan if step % 3 == 0 and step else healthy_loss(step)) is None


def test_players_of_a_game_are_not_judged() -> None:
    """P35: the losses of two optimizers are one curve."""
    history = story(loss=lambda step: 2.0 + step, about=meta(optimizers=["Adam", "Adam"]))
    assert isinstance(DivergingLoss().check(history), NotObserved)


def test_a_run_whose_start_is_not_known_is_not_judged() -> None:
    history = run_of(lines(loss=lambda step: 2.0 + step)[20:], meta())
    assert isinstance(DivergingLoss().check(history), NotObserved)


def test_it_speaks_as_soon_as_there_is_evidence_and_not_before() -> None:
    records = lines(_large, loss=lambda step: 2.0 + step)
    first = next(
        STEPS[n - 1] for n in range(1, len(records)) if DivergingLoss()(run_of(records[:n], meta()))
    )
    assert 48 <= first <= 51


@pytest.mark.parametrize(
    "settings", [{"factor": 0.5}, {"gain": 2.0}, {"lost": -1}, {"patience": 2}]
)
def test_thresholds_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        DivergingLoss(**settings)
