"""`unnormalised-input`."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.unnormalised_input import UnnormalisedInput
from rules.stories import STEPS, flat, inputs, meta, story

PLACE = "net.0/linear#0"


def run(loss: Any = flat, about: Any = None, **numbers: float) -> History:
    """Return a run whose first layer is given values with these statistics."""
    return story(lambda _, values: values.update(inputs(**numbers)), loss=loss, about=about)


PIXELS = {"mean": 120.0, "std": 60.0, "max": 255.0, "offset": 2.0}


def test_pixels_of_0_to_255_are_found() -> None:
    """C7."""
    (finding,) = UnnormalisedInput()(run(**PIXELS))
    assert finding.severity == "bad"
    assert finding.places == (PLACE,)
    assert finding.message == (
        "At `net.0/linear#0` its inputs have a root mean square of 134 (threshold 10), over 512 "
        "samples up to step 399."
    )


@pytest.mark.parametrize(
    ("numbers", "value"),
    [
        ({"mean": 100.0, "max": 103.0, "offset": 100.0}, 100.0),
        ({"std": 8.0, "max": 900.0, "scale_ratio": 500.0}, 500.0),
        ({"mean": 1e-3, "std": 1e-3, "max": 0.0039}, 0.0039),
        ({"nonfinite_count": 3.0}, 3.0),
        ({"constant_fraction": 1.0, "std": 0.0}, 1.0),
    ],
    ids=["offset", "mixed units", "tiny", "NaN", "one sample for all"],
)
def test_each_way_to_be_wrong_is_found(numbers: dict[str, float], value: float) -> None:
    (finding,) = UnnormalisedInput()(run(**numbers))
    assert finding.evidence.value == value


@pytest.mark.parametrize(
    "numbers",
    [
        {},
        {"mean": 0.45, "std": 0.25, "max": 1.0, "offset": 2.0},
        {"mean": 4.9, "std": 6.0, "max": 16.0, "offset": 1.0},
        {"mean": 1e-4, "std": 0.01, "max": 1.0, "binary_fraction": 1.0},
        {"std": 0.02, "max": 0.1},
        {"constant_fraction": 0.5, "scale_ratio": 30.0},
        {"scale_ratio": 500.0, "std": 0.3, "max": 2.0},
        {"std": 0.0, "max": 0.0},
    ],
    ids=["standard", "pixels of 0 to 1", "digits of 0 to 16", "one-hot", "length 1", "borders",
         "rare words", "zeros"],
)  # fmt: skip
def test_healthy_inputs_are_not_spoken_of(numbers: dict[str, float]) -> None:
    """P20."""
    assert UnnormalisedInput()(run(**numbers)) == []


@pytest.mark.parametrize(("std", "found"), [(10.0, 1), (9.99, 0)])
def test_the_size_decides(std: float, found: int) -> None:
    assert len(UnnormalisedInput()(run(std=std, max=40.0))) == found


@pytest.mark.parametrize(("offset", "found"), [(10.0, 1), (9.99, 0)])
def test_the_offset_decides(offset: float, found: int) -> None:
    assert len(UnnormalisedInput()(run(offset=offset))) == found


@pytest.mark.parametrize(("largest", "found"), [(0.01, 1), (0.0101, 0)])
def test_the_largest_of_tiny_values_decides(largest: float, found: int) -> None:
    assert len(UnnormalisedInput()(run(std=largest / 4, max=largest))) == found


def test_a_norm_layer_behind_undoes_the_scale_and_not_a_nan() -> None:
    assert UnnormalisedInput()(run(normalised=1.0, **PIXELS)) == []
    assert UnnormalisedInput()(run(normalised=1.0, nonfinite_count=1.0))


def test_a_frozen_layer_is_made_for_what_it_is_given() -> None:
    assert UnnormalisedInput()(run(about=meta(frozen=[0]), **PIXELS)) == []


def test_how_bad_it_is_depends_on_what_became_of_the_loss() -> None:
    def falls(step: int) -> float:
        return 2.3 * math.exp(-step / 60)

    def severity(loss: Any) -> str:
        return UnnormalisedInput()(run(loss=loss, **PIXELS))[0].severity

    assert severity(falls) == "note"
    assert severity(lambda step: 2.3 - 0.002 * step) == "suspect"
    assert severity(lambda step: math.nan if step > 9 else 2.3) == "bad"
    assert severity(None) == "suspect"


def test_few_samples_say_nothing() -> None:
    verdict = UnnormalisedInput().check(run(samples=31.0, **PIXELS))
    assert verdict == NotObserved("unnormalised-input", "fewer than 32 samples were seen")
    assert UnnormalisedInput().check(run(samples=31.0, nonfinite_count=1.0)) != []


def test_a_nan_is_told_from_the_step_on_that_it_came() -> None:
    def change(step: int, values: Any) -> None:
        values.update(inputs(nonfinite_count=float(step >= 30)))

    (finding,) = UnnormalisedInput()(story(change, loss=flat))
    assert finding.steps[0] == next(step for step in STEPS if step >= 30)
    (finding,) = UnnormalisedInput()(run(**PIXELS))
    assert finding.steps[0] == 0
