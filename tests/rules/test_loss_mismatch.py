"""A loss function that does not fit its targets, or how it is used."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_diag.finding import Finding
from lightning_diag.rules.loss_mismatch import LossMismatch
from rules.loss_stories import loss_story
from rules.stories import healthy_loss, meta

DIGITS = {
    "target/integer_fraction": 1.0,
    "target/min": 0.0,
    "target/max": 9.0,
    "target/mean": 4.5,
    "target/std": 2.87,
}


def found(numbers: dict[str, float] | None = None, **options: Any) -> Finding | None:
    findings = LossMismatch()(loss_story(lambda step: numbers or {}, **options))
    return findings[0] if findings else None


def test_a_column_against_a_row_is_bad() -> None:
    finding = found(function="mse_loss", call={"target_shape": [32], "broadcast": True})
    assert finding is not None
    assert finding.severity == "bad"
    assert "(32, 1)" in finding.message
    assert "(32,)" in finding.message


@pytest.mark.parametrize(("shape", "broadcast"), [([32, 1], False), ([1], False), ([1, 32], True)])
def test_equal_shapes_one_number_or_all_pairs_are_fine(shape: list[int], broadcast: bool) -> None:
    """P20: of as many dimensions, somebody may want all pairs."""
    call = {"target_shape": shape, "broadcast": broadcast}
    assert found(function="mse_loss", call=call) is None


def test_a_negated_loss_is_bad() -> None:
    finding = found(loss=lambda step: -healthy_loss(step), returned=healthy_loss)
    assert finding is not None
    assert finding.severity == "bad"
    assert "learns to be wrong" in finding.message


def test_a_loss_with_another_term_is_not_negated() -> None:
    assert found(loss=lambda step: -3.0, returned=healthy_loss) is None


@pytest.mark.parametrize("function", ["cross_entropy", "nll_loss", "mse_loss", "kl_div"])
def test_a_loss_below_zero_that_cannot_be_is_bad(function: str) -> None:
    finding = found(function=function, loss=lambda step: -0.4)
    assert finding is not None
    assert finding.severity == "bad"
    assert "-0.4" in finding.message


def test_a_loss_that_may_be_negative_is_fine() -> None:
    assert found(function="gaussian_nll_loss", loss=lambda step: -0.4) is None


def test_labels_of_another_range_are_bad() -> None:
    finding = found({"target/max": 255.0}, function="binary_cross_entropy_with_logits")
    assert finding is not None
    assert "254" in finding.message
    minus = found({"target/min": -1.0}, function="binary_cross_entropy_with_logits")
    assert minus is not None


def test_labels_with_noise_are_fine() -> None:
    """P20: adversaries are given labels of 0.7 to 1.2."""
    numbers = {"target/min": -0.1, "target/max": 1.2}
    assert found(numbers, function="binary_cross_entropy_with_logits") is None


def test_squared_distance_to_class_numbers_is_suspect() -> None:
    finding = found(DIGITS, function="mse_loss")
    assert finding is not None
    assert finding.severity == "suspect"
    assert "10 classes" in finding.message


@pytest.mark.parametrize(
    "changes",
    [
        {"target/integer_fraction": 0.99},
        {"target/min": 1.0},  # ratings
        {"target/max": 1.0, "target/mean": 0.5, "target/std": 0.5},  # least squares on purpose
        {"target/max": 30.0, "target/mean": 2.0, "target/std": 1.5},  # counts
        {"target/max": 255.0, "target/mean": 127.0, "target/std": 74.0},  # pixels
    ],
)
def test_other_whole_numbers_are_quantities(changes: dict[str, float]) -> None:
    """P20."""
    assert found({**DIGITS, **changes}, function="mse_loss") is None


def test_a_sum_is_a_note_where_steps_grow_with_it() -> None:
    finding = found(call={"reduction": "sum"})
    assert finding is not None
    assert finding.severity == "note"


def test_a_sum_that_hurts_is_suspect() -> None:
    def large(step: int, values: Any) -> None:
        values["update/ratio"] = dict.fromkeys(values["update/ratio"], 0.1)

    finding = found(call={"reduction": "sum"}, change=large)
    assert finding is not None
    assert finding.severity == "suspect"
    assert "0.1" in finding.message


@pytest.mark.parametrize(
    "options",
    [
        {"call": {"reduction": "sum"}, "about": meta(optimizers=["Adam"])},
        {"call": {"reduction": "sum", "input_shape": [1, 10]}},
        {"call": {"reduction": "sum"}, "returned": lambda step: 32 * healthy_loss(step)},
    ],
    ids=["Adam", "one sample", "divided afterwards"],
)
def test_a_sum_that_does_not_matter_is_fine(options: dict[str, Any]) -> None:
    """P20."""
    if "about" in options:
        options["about"] = {"optimizers": options["about"]["optimizers"]}
    assert found(**options) is None
