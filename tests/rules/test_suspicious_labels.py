"""A network that trains as it should, on targets it finds nothing in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from lightning_diag.finding import Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.chance import entropy
from lightning_diag.rules.suspicious_labels import SuspiciousLabels
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


def validated(*losses: float) -> Any:
    """Let validation be run every 40 steps, with these losses."""

    def note(history: History) -> History:
        for i, loss in enumerate(losses):
            history.note(40 * (i + 1) - 1, {"validation/val_loss": {"": loss}})
        return history

    return note


def judged(validate: Any, **options: Any) -> list[Finding]:
    about = {"train_samples": 1000, "validation": {"loss": "val_loss", "metrics": {}}}
    given = {"loss": stuck, "counts": even, "about": about, **options}
    return SuspiciousLabels()(validate(loss_story(**given)))


def test_a_validation_loss_that_falls_below_chance_shows_that_something_is_learned() -> None:
    """P20: a plateau from which a run is just leaving."""
    assert judged(validated(2.302, 2.301, 2.30, 2.30))
    assert judged(validated(2.302, 2.301, 2.29, 2.25)) == []
    # By luck of the first weights, it was below chance from the first on.
    assert judged(validated(2.25, 2.25, 2.26, 2.27))


def by_heart(step: int) -> float:
    return 2.31 - 0.0005 * step


def test_labels_that_are_learned_by_heart_alone_are_suspect_in_spite_of_a_falling_loss() -> None:
    """P20."""
    (finding,) = judged(validated(2.302, 2.31, 2.32, 2.33), loss=by_heart)
    assert "validation has never been better" in finding.message
    assert judged(validated(2.302, 2.31), loss=by_heart) == []
    assert judged(validated(2.302, 2.31, 2.32, 2.33), loss=lambda s: 2.31 - 0.002 * s) == []


def test_what_is_won_in_the_first_pass_is_learned() -> None:
    """P20: next words of high entropy."""
    about = {"train_samples": 6400}
    assert found(loss=lambda s: 2.302, about=about) is not None
    assert found(loss=lambda s: 2.302 if s < 100 else 2.25, about=about) is None
    assert found(loss=lambda s: 2.302 if s < 300 else 2.29, about=about) is not None


def test_a_layer_of_one_unit_may_be_too_small_to_learn_anything() -> None:
    parameters = {
        name: {**known, "shape": [1, 64] if name == weight(1) else known["shape"]}
        for name, known in meta()["parameters"].items()
    }
    assert found(about={"train_samples": 1000, "parameters": parameters}) is None


def test_planned_epochs_are_waited_for() -> None:
    """P20: a third of the steps planned may be a plateau."""
    trainer = {"accumulate_grad_batches": 1, "world_size": 1, "max_steps": -1}
    for epochs, is_told in ((10, True), (100, False), (-1, True)):
        about = {"train_samples": 1000, "trainer": {**trainer, "max_epochs": epochs}}
        assert (found(about=about) is not None) is is_told


def test_early_steps_and_players_are_not_judged() -> None:
    """P35."""
    about = {"optimizers": meta(optimizers=["Adam", "Adam"])["optimizers"]}
    verdict = SuspiciousLabels().check(loss_story(loss=stuck, counts=even, about=about))
    assert isinstance(verdict, NotObserved)
    assert isinstance(
        SuspiciousLabels(patience=500).check(loss_story(loss=stuck, counts=even)), NotObserved
    )
