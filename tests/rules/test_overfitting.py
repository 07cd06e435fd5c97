"""`overfitting`."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_diag.finding import Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.overfitting import Overfitting
from rules.fit_stories import Curve, classes, learning, noisy, validated
from rules.stories import healthy_loss, meta, story


def _found(validation: Curve, **options: Any) -> Finding | None:
    findings = Overfitting()(validated({"val_loss": validation}, **options))
    return findings[0] if findings else None


def _u(step: int) -> float:
    """Return a validation loss that is lowest at step 120."""
    return 0.8 + 1.5 * math.exp(-step / 25) + max(0, step - 120) / 300


def _gap(share: float) -> Curve:
    return lambda step: learning(step) + share * (2.3 - learning(step))


def test_a_validation_loss_that_rises_again_is_found() -> None:
    """W11: the U."""
    finding = _found(_u)
    assert finding is not None
    assert finding.severity == "suspect"
    assert finding.message.startswith("The validation loss rose from 0.829 about step 99 to ")
    assert "while the training loss fell from" in finding.message
    assert finding.steps == (99, 399)


@pytest.mark.parametrize(("rise", "found"), [(0.25, True), (0.15, False)])
def test_the_rise_decides(rise: float, found: bool) -> None:
    """A tenth of the 2 that validation had won."""

    def validation(step: int) -> float:
        return 0.3 + 2.0 * math.exp(-step / 25) + (rise if step > 200 else 0.0)

    assert (_found(validation) is not None) is found


@pytest.mark.parametrize(("share", "found"), [(0.32, True), (0.28, False)])
def test_what_does_not_carry_over_decides(share: float, found: bool) -> None:
    """W11: with a training loss of zero there is no U, only a gap."""

    def validation(step: int) -> float:
        return _gap(share)(step) if step > 30 else learning(step) + 0.05

    finding = _found(validation)
    assert (finding is not None) is found
    if finding:
        assert "did not carry over (threshold 30%)" in finding.message


def test_one_noisy_validation_is_nothing() -> None:
    """W11: never from one point."""
    assert _found(lambda s: learning(s) + (2.0 if s == 399 else 0.05)) is None
    assert _found(lambda s: learning(s) + (2.0 if s in {379, 399} else 0.05)) is None


@pytest.mark.parametrize("seed", range(6))
def test_validation_on_few_samples_is_noisy_and_healthy(seed: int) -> None:
    assert _found(noisy(lambda s: learning(s) + 0.1, 0.4, seed=seed)) is None


def test_a_healthy_gap_is_nothing() -> None:
    assert _found(lambda s: learning(s) + 0.1, loss=healthy_loss) is None


def test_data_that_are_treated_differently_are_another_finding() -> None:
    """The gap is there from the first validation, and does not open."""
    assert _found(lambda s: learning(s) + 1.5) is None


def test_a_training_loss_that_jumped_up_is_another_finding() -> None:
    """P47: both losses went up, by an accident."""

    def loss(step: int) -> float:
        return learning(step) + (2.0 if step > 250 else 0.0)

    assert _found(lambda s: loss(s) + 0.1, loss=loss) is None


def test_a_metric_that_holds_makes_a_rise_a_note() -> None:
    """The model is too sure of itself, and no worse."""
    options: dict[str, Any] = {"modes": {"val_loss": "min", "val_acc": "max"}}
    held = validated({"val_loss": _u, "val_acc": lambda s: 0.9 + s / 1e5}, **options)
    lost = validated({"val_loss": _u, "val_acc": lambda s: 0.9 - s / 1e4}, **options)
    assert [f.severity for f in Overfitting()(held)] == ["note"]
    assert "`validation/val_acc` is as good as it was there" in Overfitting()(held)[0].message
    assert [f.severity for f in Overfitting()(lost)] == ["suspect"]


def test_fine_tuning_with_nothing_left_to_win_is_nothing() -> None:
    """A share of next to nothing is next to nothing."""
    assert _found(lambda s: 0.105 + s / 1e6, loss=lambda s: 0.02 - s / 1e5) is None


def test_a_sum_over_samples_is_in_another_unit() -> None:
    about = {"losses": {"cross_entropy#0": {"function": "cross_entropy", "reduction": "sum"}}}
    history = validated({"val_loss": lambda s: 8 * learning(s) + 3}, more=about)
    assert Overfitting()(history) == []
    assert _found(lambda s: 8 * learning(s) + 3) is None


def test_a_bad_initialisation_is_not_what_training_won() -> None:
    """The first loss is 20, but knowing nothing gives 2.3: of that, 43 % does not carry over."""

    def loss(step: int) -> float:
        return learning(step) + 18 * math.exp(-step / 3)

    def validation(step: int) -> float:
        return max(1.0, learning(step))

    assert _found(validation, loss=loss) is None
    assert _found(validation, loss=loss, more=classes(10)) is not None


def test_losses_below_zero_have_gaps_as_well() -> None:
    def down(step: int) -> float:
        return learning(step) - 3.0

    assert _found(lambda s: down(s) + 0.1, loss=down) is None
    assert _found(lambda s: max(down(s), -1.5), loss=down) is not None


def test_many_validations_are_joined() -> None:
    """Windows of them, so that their noise goes."""
    finding = _found(noisy(_u, 0.05), every=2)
    assert finding is not None
    assert abs(finding.steps[0] - 120) < 40


def test_what_was_not_validated_is_not_judged() -> None:
    assert isinstance(Overfitting().check(story()), NotObserved)
    rare = validated({"val_loss": _u}, every=100)
    verdict = Overfitting().check(rare)
    assert isinstance(verdict, NotObserved)
    assert "fewer than 5 validations" in verdict.reason
    game = validated({"val_loss": _u}, more=meta(optimizers=["Adam", "Adam"]))
    assert isinstance(Overfitting().check(game), NotObserved)


def test_steps_that_are_taken_again_are_judged_again() -> None:
    """A run that goes on from a checkpoint: what was known of later steps does not stay."""
    history = validated({"val_loss": _u})
    assert Overfitting()(history)
    history.resume(150)
    assert Overfitting()(history) == []


def test_a_history_read_from_its_file_gives_the_same(tmp_path: Any) -> None:
    live = History(tmp_path / "history.jsonl")
    told = validated({"val_loss": _u})
    live.update_meta(told.meta)
    for record in told.records():
        live.append(record)
    for step, value in zip(*told.series("validation/val_loss"), strict=True):
        live.note(step, {"validation/val_loss": {"": value}})
    live.close()
    (finding,) = Overfitting()(History.open(tmp_path / "history.jsonl"))
    assert finding.evidence.value == pytest.approx(Overfitting()(told)[0].evidence.value, rel=1e-4)


@pytest.mark.parametrize("settings", [{"rise": 2}, {"gap": -1}, {"learnt": 2}, {"validations": 3}])
def test_thresholds_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Overfitting(**settings)
