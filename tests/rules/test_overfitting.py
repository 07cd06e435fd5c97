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


@pytest.mark.parametrize(("rise", "found"), [(0.17, True), (0.13, False)])
def test_the_rise_decides(rise: float, found: bool) -> None:
    """A tenth of the 1.5 that validation had won."""

    def validation(step: int) -> float:
        return 0.8 + 1.5 * math.exp(-step / 15) + (rise if step > 200 else 0.0)

    assert (_found(validation) is not None) is found


@pytest.mark.parametrize(("share", "found"), [(0.32, True), (0.28, False)])
def test_what_does_not_carry_over_decides(share: float, found: bool) -> None:
    """W11: with a training loss of zero there is no U, only a gap."""

    def validation(step: int) -> float:
        return _gap(share)(step) if step > 30 else learning(step) + 0.05

    finding = _found(validation, more=classes(10))
    assert (finding is not None) is found
    if finding:
        assert finding.severity == "suspect"
        assert "did not carry over (threshold 30%)" in finding.message


@pytest.mark.parametrize(("share", "found"), [(0.43, False), (0.47, True)])
def test_sets_of_numbers_differ_more_than_sets_of_classes(share: float, found: bool) -> None:
    def validation(step: int) -> float:
        return _gap(share)(step) if step > 30 else learning(step) + 0.05

    assert (_found(validation) is not None) is found


def _few(samples: int) -> dict[str, Any]:
    return {**classes(10), "train_samples": samples}


@pytest.mark.parametrize(
    ("share", "severity"), [(0.15, None), (0.25, "note"), (0.35, "suspect"), (0.6, "suspect")]
)
def test_samples_known_by_heart_before_the_first_validation(
    share: float, severity: str | None
) -> None:
    """W11: twenty samples are learned within steps, where weights outnumber them."""

    def loss(step: int) -> float:
        return 2.3 * math.exp(-step / 4)

    def validation(step: int) -> float:
        return share * 2.3 + loss(step)

    finding = _found(validation, loss=loss, more=_few(20), every=40)
    assert (finding.severity if finding else None) == severity
    assert _found(validation, loss=loss, more=_few(100_000), every=40) is None


@pytest.mark.parametrize(("accuracy", "severity"), [(0.95, "note"), (0.8, "suspect")])
def test_a_gap_of_the_loss_alone_is_a_note(accuracy: float, severity: str) -> None:
    """A few samples that the model is too sure of: the accuracy is nearly that of training."""

    def change(step: int, values: Any) -> None:
        values["output/accuracy"] = {"cross_entropy#0": min(1.0, 0.2 + step / 100)}

    def validation(step: int) -> float:
        return _gap(0.4)(step) if step > 30 else learning(step) + 0.05

    metrics = {"val_loss": validation, "val_acc": lambda s: accuracy}
    options: dict[str, Any] = {"modes": {"val_acc": "max"}, "more": classes(10)}
    (finding,) = Overfitting()(validated(metrics, change=change, **options))
    assert finding.severity == severity
    (finding,) = Overfitting()(validated(metrics, **options))
    assert finding.severity == "suspect"  # what training gets right is not known


def test_a_training_loss_that_falls_from_validation_to_validation_still_fits() -> None:
    """The newest three differ by more than a tenth of what was won, downwards."""

    def loss(step: int) -> float:
        return 2.3 * math.exp(-step / 200)

    finding = _found(lambda s: max(1.4, loss(s)), loss=loss, every=50, more=classes(10))
    assert finding is not None


def test_what_is_not_known_by_heart_needs_a_gap_that_opened() -> None:
    """The gap of the first validation may be of the data."""

    def loss(step: int) -> float:
        return 0.3 + 2.0 * math.exp(-step / 4)

    assert _found(lambda s: 1.2 + loss(s), loss=loss, more=_few(20), every=40) is None


def test_a_validation_loss_that_only_rises_is_found() -> None:
    """It was never below the start: a tenth of what training won is what it must rise by."""
    assert _found(lambda s: 2.4 + s / 400) is not None
    assert _found(lambda s: 2.4 + s / 4000) is None


def test_losses_of_single_samples_are_compared_by_their_mean() -> None:
    """Their median is far below it: one sample in six says nearly all there is to say."""

    def loss(step: int) -> float:
        return learning(step) * (6.0 if step % 6 == 0 else 0.05) + (0.0 if step % 6 else 1.8)

    assert _found(lambda s: learning(s) + 0.35, loss=loss, more=classes(10)) is None


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

    def slight(step: int) -> float:
        return 0.3 + 2.0 * math.exp(-step / 25) + max(0, step - 120) / 800

    held = validated({"val_loss": slight, "val_acc": lambda s: 0.9 + s / 1e5}, **options)
    lost = validated({"val_loss": slight, "val_acc": lambda s: 0.9 - s / 1e4}, **options)
    assert [f.severity for f in Overfitting()(held)] == ["note"]
    assert "`validation/val_acc` is as good as it was there" in Overfitting()(held)[0].message
    assert [f.severity for f in Overfitting()(lost)] == ["suspect"]
    both = validated({"val_loss": _u, "val_acc": lambda s: 0.9 + s / 1e5}, **options)
    assert [f.severity for f in Overfitting()(both)] == ["suspect"]  # half does not carry over


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


@pytest.mark.parametrize(("rise", "found"), [(0.14, True), (0.1, False)])
def test_a_rise_by_a_third_of_a_low_loss_is_found(rise: float, found: bool) -> None:
    """Half a tenth of the 2 that validation had won, and three tenths of its best, 0.4."""

    def validation(step: int) -> float:
        return 0.4 + 1.9 * math.exp(-step / 15) + (rise if step > 200 else 0.0)

    assert (_found(validation) is not None) is found


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
