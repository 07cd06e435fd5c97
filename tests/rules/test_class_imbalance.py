"""Classes so rare that the network leaves them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lightning_diag.finding import Finding
from lightning_diag.rules.class_imbalance import ClassImbalance
from rules.loss_stories import loss_story
from rules.stories import meta

_COUNTS = ("target_count", "predicted_count", "correct_count")


def found(
    targets: Sequence[float], hits: Sequence[float], imbalance: float = 30.0, late: int = 10**6
) -> Finding | None:
    """Judge a run whose rare classes are recognised from step `late` on."""
    history = loss_story(
        lambda step: {"class/imbalance": imbalance},
        counts=lambda step: {
            "target_count": targets,
            "predicted_count": targets if step >= late else hits,
            "correct_count": targets if step >= late else hits,
        },
    )
    findings = ClassImbalance()(history)
    return findings[0] if findings else None


def missing(targets: list[float]) -> dict[str, list[float]]:
    """Return counts where the first of two classes is always predicted."""
    both, first = sum(targets), targets[0]
    return dict(zip(_COUNTS, (targets, [both, 0.0], [first, 0.0]), strict=True))


def test_rare_classes_that_are_never_recognised_are_suspect() -> None:
    finding = found([30.0, 1.0, 1.0], [30.0, 0.0, 1.0])
    assert finding is not None
    assert finding.severity == "suspect"
    assert "1 of 3 classes" in finding.message
    assert "Never predicted: 1." in finding.message


def test_rare_classes_that_are_recognised_are_fine() -> None:
    """P20: imbalance alone is no finding."""
    assert found([30.0, 1.0, 1.0], [29.0, 1.0, 1.0]) is None
    assert found([30.0, 3.0, 3.0], [29.0, 1.0, 1.0]) is None


def test_classes_of_one_size_are_fine_though_some_are_missed() -> None:
    assert found([10.0, 10.0, 12.0], [10.0, 0.0, 12.0], imbalance=1.2) is None


def test_rare_classes_that_come_late_are_fine() -> None:
    """P20: recognised in the newest looks."""
    assert found([30.0, 1.0, 1.0], [30.0, 0.0, 0.0], late=300) is None


def test_frequent_classes_that_are_missed_as_well_are_not_for_being_rare() -> None:
    """P20: characters of a text, most of which cannot be foretold."""
    assert found([30.0, 1.0, 1.0], [17.0, 0.0, 0.0]) is None
    assert found([30.0, 1.0, 1.0], [19.0, 0.0, 0.0]) is not None


def test_rare_classes_of_which_each_look_has_several_count_when_the_loss_stands() -> None:
    """P20: tags of words, and pixels, that are learned later."""

    def run(loss: Callable[[int], float]) -> list[Finding]:
        history = loss_story(
            lambda step: {"class/imbalance": 30.0},
            loss=loss,
            counts=lambda step: missing([300.0, 10.0]),
        )
        return ClassImbalance()(history)

    assert run(lambda step: 0.05)
    assert run(lambda step: 0.05 * 0.998**step) == []


def test_a_loss_that_is_still_that_of_the_frequencies_makes_it_a_note() -> None:
    """P20: clicks, which are never more likely than not."""

    def run(loss: float) -> Finding:
        history = loss_story(
            lambda step: {"class/imbalance": 30.0},
            loss=lambda step: loss,
            counts=lambda step: missing([31.0, 1.0]),
        )
        (finding,) = ClassImbalance()(history)
        return finding

    assert run(0.13).severity == "note"
    assert run(0.05).severity == "suspect"
    assert run(0.5).severity == "suspect"


def test_planned_steps_are_waited_for() -> None:
    def run(steps: int) -> list[Finding]:
        history = loss_story(
            lambda step: {"class/imbalance": 30.0},
            counts=lambda step: missing([31.0, 1.0]),
            about={"trainer": {"max_steps": steps, "max_epochs": -1}},
        )
        return ClassImbalance()(history)

    assert run(400)
    assert run(4000) == []


def test_what_is_too_rare_to_tell_is_a_note() -> None:
    finding = found([32.0, 0.05, 0.0], [32.0, 0.0, 0.0], imbalance=640.0)
    assert finding is not None
    assert finding.severity == "note"
    assert found([32.0, 0.05, 0.0], [32.0, 0.0, 0.0], imbalance=70.0) is None


def test_a_loss_of_several_classes_that_has_seen_targets_of_one_is_a_note() -> None:
    def run(targets: list[float], *optimizers: str) -> list[Finding]:
        history = loss_story(
            lambda step: {"class/imbalance": 1.0, "class/majority_share": 1.0},
            counts=lambda step: dict.fromkeys(_COUNTS, targets),
            about={"optimizers": meta(optimizers=optimizers or ["SGD"])["optimizers"]},
        )
        return ClassImbalance()(history)

    (finding,) = run([32.0, 0.0])
    assert finding.severity == "note"
    assert "are of class 0 of 2 (threshold 80 targets)" in finding.message
    assert run([0.1, 0.0]) == []
    assert run([32.0]) == []
    assert run([16.0, 16.0]) == []
    assert run([32.0, 0.0], "Adam", "Adam") == []  # a judge is told that all are real


def test_looks_of_other_numbers_of_classes_are_left_out() -> None:
    history = loss_story(
        lambda step: {"class/imbalance": 30.0},
        counts=lambda step: {
            name: [30.0, *([0.0 if name != "target_count" else 1.0] * (1 + step % 2))]
            for name in ("target_count", "predicted_count", "correct_count")
        },
    )
    (finding,) = ClassImbalance()(history)
    assert finding.severity == "suspect"
