"""The published rules fire at their published thresholds, and not just below them."""

from __future__ import annotations

from typing import Any

import pytest

from .baselines import AutoTrainer, Found, SageMaker, judge
from .numbers import Look, Numbers
from .recipe import Recipe
from .train import quiet, train

FALLING = [2.0 - i / 100 for i in range(100)]
"""A loss that no rule minds."""


def _look(**values: Any) -> Look:
    fine = {"gradient": {"a": 0.1, "b": 0.1}, "gradient_range": {"a": 1.0}, "accuracy": None}
    return Look(**{**fine, **values})


def _codes(found: Found) -> set[str]:
    return {code for _, code in found}


@pytest.mark.parametrize(
    ("fires", "not_quite", "code"),
    [
        ({"gradient": {"a": 9e-8}}, {"gradient": {"a": 1e-7}}, "vanishing-gradient"),
        ({"nonfinite": True}, {"nonfinite": False}, "non-finite"),
        ({"zeros": {"a": 1.0}}, {"zeros": {"a": 0.99}}, "missing-gradient"),
        ({"silent": {"a": 0.51}}, {"silent": {"a": 0.5}}, "dead-relu"),
        ({"flat": {"a": 0.51}}, {"flat": {"a": 0.5}}, "saturated-activation"),
        ({"ratio": {"a": 10.1}}, {"ratio": {"a": 10.0}}, "learning-rate-too-high"),
        ({"ratio": {"a": 9e-9}}, {"ratio": {"a": 1e-8}}, "learning-rate-too-low"),
        ({"input_offset": 0.21}, {"input_offset": 0.2}, "unnormalised-input"),
        (
            {"input_variance": {"a": 1.0, "b": 10.1}},
            {"input_variance": {"a": 1.0, "b": 10.0}},
            "init-scale",
        ),
        ({"gradient_range": {"a": 9e-4}}, {"gradient_range": {"a": 1e-3}}, "init-scale"),
        (
            {"answers": [(0, 0)] * 500 + [(1, 1)] * 49},
            {"answers": [(0, 0)] * 500 + [(1, 1)] * 50},
            "class-imbalance",
        ),
        (
            {"answers": [(0, 0)] * 300 + [(1, 0)] * 213 + [(1, 1)] * 87},
            {"answers": [(0, 0)] * 300 + [(1, 0)] * 210 + [(1, 1)] * 90},
            "class-imbalance",
        ),
    ],
)
def test_sagemakers_thresholds(fires: dict[str, Any], not_quite: dict[str, Any], code: str) -> None:
    """PEERS: the AWS developer guide."""
    assert _codes(SageMaker()([_look(**fires)], FALLING, [])) == {code}
    assert not SageMaker()([_look(**not_quite)], FALLING, [])


def test_sagemakers_rules_of_the_loss() -> None:
    assert _codes(SageMaker()([_look()], [*FALLING, *[2.0] * 10], [])) == {"loss-plateau"}
    late = sum(FALLING[-10:]) / 10
    assert _codes(SageMaker()([_look()], FALLING, [1.11 * late])) == {"overfitting"}
    assert not SageMaker()([_look()], FALLING, [1.09 * late])


@pytest.mark.parametrize(
    ("fires", "not_quite", "code"),
    [
        (
            {"gradient": {"a": 9e-5, "b": 0.1}},
            {"gradient": {"a": 1.1e-4, "b": 0.2}},
            "vanishing-gradient",
        ),
        ({"gradient": {"a": 7.1, "b": 0.1}}, {"gradient": {"a": 6.9, "b": 0.1}},
         "exploding-gradient"),
        (
            {"silent": {"r": 0.0}, "zeros": {"a": 0.7}},
            {"silent": {"r": 0.0}, "zeros": {"a": 0.69}},
            "dead-relu",
        ),
        ({"size": {"a": 10.0}}, {"size": {"a": 9.9}}, "unnormalised-input"),
        ({"largest_weight": 5.1}, {"largest_weight": 5.0}, "init-scale"),
    ],
)  # fmt: skip
def test_autotrainers_thresholds(
    fires: dict[str, Any], not_quite: dict[str, Any], code: str
) -> None:
    """PEERS: `utils/utils.py` and `monitor.py`; three times, and twice is too few."""
    assert _codes(AutoTrainer()([_look(**fires)] * 3, FALLING, [])) == {code}
    assert not AutoTrainer()([_look(**fires)] * 2, FALLING, [])
    assert not AutoTrainer()([_look(**not_quite)] * 3, FALLING, [])


def test_autotrainers_rules_of_the_course() -> None:
    assert _codes(AutoTrainer()([_look()], [1.0, 1e3], [])) == {"non-finite"}
    assert _codes(AutoTrainer()([_look()], [1.0, -0.1], [])) == {"loss-mismatch"}
    flat = [_look(accuracy=0.5) for _ in range(16)]
    assert _codes(AutoTrainer()(flat, FALLING, [])) == {"learning-rate-too-low", "underfitting"}
    rising = [_look(accuracy=i / 16) for i in range(16)]
    assert not AutoTrainer()(rising, FALLING, [])


def test_recording_numbers_changes_nothing() -> None:
    quiet()
    recipe = Recipe(2, norm="bn", dropout=0.2, steps=40)
    numbers = Numbers(5)
    assert train(recipe).losses == train(recipe, [numbers]).losses
    assert len(numbers.looks) == 8
    assert set(numbers.looks[0].ratio) == {"net.1.weight", "net.5.weight", "net.9.weight"}


def test_all_published_rules_judge_a_training() -> None:
    pytest.importorskip("torchmortem")
    quiet()
    found = judge(Recipe(3, steps=60))
    assert set(found) == {"torchmortem", "SageMaker", "AutoTrainer"}
    dead = judge(Recipe(3, init="he", steps=60).with_faults(hidden_bias=-8.0))
    assert {"dead-relu", "missing-gradient"} & _codes(dead["torchmortem"])
    assert "dead-relu" in _codes(dead["SageMaker"])
