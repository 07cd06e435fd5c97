"""`loss-plateau`."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.loss_plateau import LossPlateau
from rules.fit_stories import LONG, Curve, classes, noisy, validated
from rules.stories import flat, healthy_loss, lines, meta, run_of, story


def _found(
    loss: Curve, change: Any = None, about: dict[str, Any] | None = None, **more: Any
) -> int:
    return len(LossPlateau()(story(change, loss=loss, about={**meta(), **(about or {})}, **more)))


def test_a_loss_that_never_moved_is_found() -> None:
    """W10."""
    (finding,) = LossPlateau()(story(loss=flat, about={**meta(), **classes(10)}))
    assert finding.severity == "suspect"
    assert finding.message == (
        "The loss is no better than chance: it stands at 2.3, and no level in 400 steps was below "
        "2.3 (threshold 2.23; a model that tells no sample from another gets 2.3)."
    )


@pytest.mark.parametrize(("level", "found"), [(2.25, 1), (2.2, 0)])
def test_what_a_model_gets_that_knows_nothing_decides(level: float, found: int) -> None:
    """A bad initialisation wins something in a few steps, and is no better than chance then."""

    def loss(step: int) -> float:
        return level + 5 * math.exp(-step / 4) + 0.01 * math.sin(3 * step)

    assert _found(loss, about=classes(10)) == found


@pytest.mark.parametrize(("fall", "found"), [(0.02, 1), (0.05, 0)])
def test_where_chance_is_not_known_the_first_loss_decides(fall: float, found: int) -> None:
    assert _found(lambda step: 2.0 * (1 - fall * min(1.0, step / 30))) == found


def test_an_early_plateau_that_ends_is_healthy() -> None:
    """W10: a flat start and then learning is a bad initialisation, not a run that is stuck."""

    def loss(step: int) -> float:
        return 2.3 / (1 + math.exp((step - 230) / 15)) + 0.02 * math.sin(3 * step)

    records = lines(loss=loss)
    for n in range(1, len(records) + 1):
        assert LossPlateau()(run_of(records[:n], {**meta(), **classes(10)})) == []


def test_a_long_plateau_is_told_while_it_lasts_and_withdrawn_then() -> None:
    def loss(step: int) -> float:
        return 2.3 / (1 + math.exp((step - 1200) / 15)) + 0.02 * math.sin(3 * step)

    records = lines(loss=loss, steps=LONG)
    verdicts = [bool(LossPlateau()(run_of(records[:n], meta()))) for n in (60, 180, len(records))]
    assert verdicts == [False, True, False]


def test_gradients_that_grow_end_a_plateau() -> None:
    def change(step: int, values: Any) -> None:
        values["gradient/total_norm"] = {"": 0.1 * math.exp(step / 80)}

    assert _found(flat, change) == 0


@pytest.mark.parametrize("noise", [0.3, 0.6])
def test_fine_tuning_starts_low_and_stays_there(noise: float) -> None:
    """The losses of a trained model differ by half of their level."""
    assert _found(noisy(lambda step: 0.01, noise)) == 0
    assert _found(lambda step: 0.4, about=classes(10)) == 0


@pytest.mark.parametrize("floor", [1e-6, 0.3, 0.9])
def test_a_converged_run_is_flat_because_it_is_done(floor: float) -> None:
    """W11: also where the noise of the targets is the floor."""

    def loss(step: int) -> float:
        return floor + (1.3 - floor) * math.exp(-step / 30) + 0.05 * floor * math.sin(3 * step)

    assert _found(loss, steps=LONG) == 0


def test_a_loss_that_falls_slowly_is_not_flat() -> None:
    assert _found(lambda step: 2.3 - 0.0004 * step) == 0


def test_a_loss_too_noisy_to_tell_is_not_flat() -> None:
    """W10: batches of one sample."""
    assert _found(noisy(lambda step: 2.3 - 0.0003 * step, 0.6, skew=True), about=classes(10)) == 0


def test_standing_still_far_above_the_best_is_found() -> None:
    """W10: drops, and then stalls."""

    def loss(step: int) -> float:
        return healthy_loss(step) if step < 200 else 1.9 + 0.01 * math.sin(3 * step)

    (finding,) = LossPlateau()(story(loss=loss))
    assert "stands still at 1.9" in finding.message
    assert _found(lambda step: healthy_loss(step) if step < 200 else 0.5) == 0


def test_a_run_waits_for_its_share_of_the_planned_steps() -> None:
    about = {**meta(), "trainer": {"max_steps": 10_000}}
    assert isinstance(LossPlateau().check(story(loss=flat, about=about)), NotObserved)
    about = {**meta(), "trainer": {"max_steps": -1}}
    assert len(LossPlateau()(story(loss=flat, about=about))) == 1


def test_a_run_with_validations_waits_for_two() -> None:
    """Steps of a few samples see little of the data."""
    rare = validated({"val_loss": flat}, loss=flat, every=250)
    assert isinstance(LossPlateau().check(rare), NotObserved)
    assert len(LossPlateau()(validated({"val_loss": flat}, loss=flat, every=150))) == 1


def test_the_variance_of_the_targets_is_the_chance_of_a_squared_error() -> None:
    about = {"losses": {"mse_loss#0": {"function": "mse_loss", "reduction": "mean"}}}

    def targets(step: int, values: Any) -> None:
        values["target/std"] = {"mse_loss#0": 3.0}

    assert _found(lambda step: 9.0 + 0.1 * math.sin(3 * step), targets, about) == 1
    assert _found(lambda step: 8.0 + 0.1 * math.sin(3 * step), targets, about) == 0


def test_a_second_term_hides_the_chance_level() -> None:
    """The loss is then more than its cross-entropy: a flat one is not that of chance."""
    about: dict[str, Any] = classes(10)
    about["losses"]["cross_entropy#0"]["first"] = {"step": 0, "output/loss": 2.3}
    assert _found(lambda step: 12.0 - 3 * min(1, step / 100), about=about) == 0


@pytest.mark.parametrize(("level", "found"), [(2.32, True), (2.25, False)])
def test_a_fall_towards_chance_is_no_learning(level: float, found: bool) -> None:
    """Above ln 10 = 2.303 the model forgets what it was wrongly sure of; below it, it learns."""

    def loss(step: int) -> float:
        return level + 0.25 * (1 - step / 399)

    history = story(loss=loss, about={**meta(), **classes(10)})
    assert bool(LossPlateau()(history)) is found


@pytest.mark.parametrize("settings", [{"near": 2}, {"gain": -1}, {"share": 2}, {"patience": 16}])
def test_thresholds_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        LossPlateau(**settings)
