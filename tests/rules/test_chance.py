"""What knowing nothing costs, and how many steps are planned."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_diag.rules.chance import entropy, planned_steps, steps_of_pass
from rules.loss_stories import loss_story

PLACE = "cross_entropy#0"


def test_the_loss_of_the_frequencies_is_their_entropy() -> None:
    assert entropy([1e6] * 8) == pytest.approx(math.log(8), abs=1e-5)
    assert entropy([]) == entropy([0.0, 0.0]) == entropy([5.0]) == 0.0


@pytest.mark.parametrize(
    ("about", "each", "planned"),
    [
        ({"train_samples": 0}, math.inf, 0),
        ({"train_samples": 3200}, 100, 0),
        ({"train_samples": 3200, "trainer": {"max_epochs": 5, "max_steps": -1}}, 100, 500),
        ({"train_samples": 3200, "trainer": {"max_epochs": 5, "max_steps": 300}}, 100, 300),
        ({"train_samples": 3200, "trainer": {"max_epochs": -1, "max_steps": 70}}, 100, 70),
        ({"train_samples": 0, "trainer": {"max_epochs": 5, "max_steps": -1}}, math.inf, 0),
        (
            {
                "train_samples": 3200,
                "trainer": {"max_epochs": 4, "accumulate_grad_batches": 2, "world_size": 5},
            },
            10,
            40,
        ),
    ],
)
def test_steps_are_known_from_samples_and_epochs(
    about: dict[str, Any], each: float, planned: float
) -> None:
    history = loss_story(about=about)
    assert steps_of_pass(history, PLACE) == each
    assert planned_steps(history, PLACE) == planned
