"""`train-validation-shift`."""

from __future__ import annotations

import pytest

from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.train_validation_shift import TrainValidationShift
from rules.stories import batches, story


def run(*, train: dict[str, float] | None = None, **validation: float) -> History:
    """Return a run with these statistics of the batches, validation's noted between records."""
    history = story(lambda _, values: values.update(_side(batches(train, validation), "train/0")))
    history.note(399, _side(batches(train, validation), "validation/0"))
    return history


def _side(values: dict[str, dict[str, float]], place: str) -> dict[str, dict[str, float]]:
    return {metric: {place: places[place]} for metric, places in values.items()}


def test_a_stage_that_was_not_scaled_is_found() -> None:
    """C7."""
    (finding,) = TrainValidationShift()(run(mean=0.1, std=0.004, std_error=1e-4))
    assert finding.severity == "suspect"
    assert finding.message == (
        "Training's and validation's batches differ in tensor '0': their standard deviations "
        "differ by a factor of 250 (threshold 1.6). Mean and standard deviation are 0 and 1 in "
        "training, 0.1 and 0.004 in validation, over 1,020 and 64 samples up to step 399."
    )


@pytest.mark.parametrize(("mean", "found"), [(0.75, 1), (-0.75, 1), (0.749, 0)])
def test_the_difference_of_the_means_decides(mean: float, found: int) -> None:
    assert len(TrainValidationShift()(run(mean=mean))) == found


@pytest.mark.parametrize(("std", "found"), [(1.6, 0), (1.61, 1), (0.62, 1), (0.63, 0)])
def test_the_ratio_of_the_standard_deviations_decides(std: float, found: int) -> None:
    """At 1.6 the noise of a few samples decides as well: 64 of them are known to a tenth."""
    rule = TrainValidationShift(factor=1.6001, errors=3.0)
    assert len(rule(run(std=std))) == found


def test_few_samples_may_differ_by_chance() -> None:
    """Small validation sets are not processed differently because of that."""
    assert TrainValidationShift()(run(mean=1.0, samples=10.0, mean_error=0.3)) == []
    assert TrainValidationShift()(run(std=2.5, samples=10.0, std_error=0.6)) == []
    assert TrainValidationShift()(run(mean=50.0, samples=7.0)) == []
    assert TrainValidationShift()(run(mean=50.0, samples=8.0))


def test_equal_constants_do_not_differ_and_unequal_ones_do() -> None:
    constant = {"mean": 2.0, "std": 0.0, "mean_error": 0.0, "std_error": 0.0}
    assert TrainValidationShift()(run(train=constant, **constant)) == []
    assert TrainValidationShift()(run(train=constant, **{**constant, "mean": 3.0}))


def test_without_validation_it_is_not_observed() -> None:
    values = _side(batches(), "train/0")
    verdict = TrainValidationShift().check(story(lambda _, numbers: numbers.update(values)))
    reason = "no tensor of the batch was seen in both stages"
    assert verdict == NotObserved("train-validation-shift", reason)
