"""A network that trains as it should, on targets it finds nothing in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from lightning_diag.finding import Finding
from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.suspicious_labels import SuspiciousLabels, entropy
from rules.loss_stories import loss_story, stuck
from rules.stories import geometric, healthy_loss, meta, weight


def even(step: int) -> Mapping[str, list[float]]:
    return {
        "target_count": [3.0] * 10,
        "predicted_count": [3.0] * 10,
        "correct_count": [0.3] * 10,
    }


def found(**options: Any) -> Finding | None:
    about = {"train_samples": 1000}
    given = {"numbers": lambda s: {}, "loss": stuck, "counts": even, "about": about, **options}
    findings = SuspiciousLabels()(loss_story(given.pop("numbers"), **given))
    return findings[0] if findings else None


def test_a_loss_at_chance_though_all_moves_is_suspect() -> None:
    finding = found()
    assert finding is not None
    assert finding.severity == "suspect"
    assert finding.places == ("cross_entropy#0",)


def test_a_regression_that_explains_nothing_is_suspect() -> None:
    numbers = {"target/unexplained_ratio": 0.99}
    assert found(numbers=lambda s: numbers, function="mse_loss", loss=lambda s: 1.0) is not None
    numbers = {"target/unexplained_ratio": 0.8}
    assert found(numbers=lambda s: numbers, function="mse_loss", loss=lambda s: 0.9) is None


def scaled(factor: float) -> Any:
    def change(step: int, values: Any) -> None:
        values["update/ratio"] = {n: factor * v for n, v in values["update/ratio"].items()}

    return change


def vanishing(step: int, values: Any) -> None:
    values["gradient/norm"] = dict(
        zip([weight(i) for i in range(6)], geometric(1e-8, 20.0), strict=True)
    )
    values["gradient/depth_ratio"] = {"": 1e-6}


@pytest.mark.parametrize(
    "options",
    [
        {"loss": healthy_loss},
        {"loss": lambda step: 3.5 + 0.01 * (step % 3)},
        {"loss": lambda step: 2.0 if step > 150 else 2.3},
        {"loss": lambda step: 1.0 if 100 < step < 150 else 2.3},
        {"loss": lambda step: 2.52 - 0.0008 * step},
        {"about": {"train_samples": 20_000}},
        {"about": {}},
        {"change": scaled(1e-3)},
        {"change": scaled(30.0)},
        {"change": vanishing},
        {"numbers": lambda step: {"output/sample_spread": 1e-3}},
        {"call": {"activation": "softmax"}},
        {"returned": lambda step: stuck(step) / 2},
    ],
    ids=[
        "learns",
        "above chance",
        "below chance",
        "thrown back",
        "falls",
        "first pass",
        "data without end",
        "hardly moves",
        "moves too far",
        "vanishes",
        "constant",
        "softmax twice",
        "part of a loss",
    ],
)
def test_it_is_silent_where_something_else_explains_it(options: dict[str, Any]) -> None:
    """P20."""
    assert found(**options) is None


def test_frequent_classes_lower_what_chance_is() -> None:
    """Always answering with the frequent class is no worse than what it has learned here."""

    def uneven(step: int) -> Mapping[str, list[float]]:
        return {name: [27.0, 3.0] for name in even(0)}

    assert entropy([2700.0, 300.0]) == pytest.approx(0.3251, abs=2e-4)
    assert entropy([27.0, 3.0]) == pytest.approx(0.3251 + 1 / 60, abs=1e-4)
    finding = found(counts=uneven, loss=lambda s: 0.33 if s > 20 else 0.5)
    assert finding is not None
    assert found(counts=uneven, loss=lambda s: 0.28 if s > 20 else 0.4) is None


def test_early_steps_and_players_are_not_judged() -> None:
    """P35."""
    about = {"optimizers": meta(optimizers=["Adam", "Adam"])["optimizers"]}
    verdict = SuspiciousLabels().check(loss_story(loss=stuck, counts=even, about=about))
    assert isinstance(verdict, NotObserved)
    assert isinstance(
        SuspiciousLabels(patience=500).check(loss_story(loss=stuck, counts=even)), NotObserved
    )
