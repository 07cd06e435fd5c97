"""`metric-loss-disagreement`."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_diag.finding import Finding
from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.metric_loss_disagreement import MetricLossDisagreement
from rules.fit_stories import Curve, classes, learning, noisy, validated
from rules.stories import story


def _found(metric: Curve, loss: Curve = learning, mode: str = "max", **more: Any) -> Finding | None:
    history = validated({"val_loss": loss, "val_x": metric}, modes={"val_x": mode}, **more)
    findings = MetricLossDisagreement()(history)
    return findings[0] if findings else None


def _falling(step: int) -> float:
    return 0.9 - step / 1000


def test_a_metric_that_gets_worse_while_the_loss_falls_is_found() -> None:
    """TheDeepChecker's correlation of loss and metric."""
    finding = _found(_falling)
    assert finding is not None
    assert finding.severity == "suspect"
    assert finding.message == (
        "`validation/val_x` got worse, from 0.881 to 0.501, while the validation loss fell from "
        "1.83 to 0.0357: over 20 validations from step 19 to 399 the two disagree in 100% of all "
        "pairs (threshold 75%)."
    )


def test_the_direction_of_the_metric_counts() -> None:
    assert _found(_falling, mode="min") is None
    assert _found(lambda s: 0.1 + s / 1000, mode="min") is not None
    assert _found(lambda s: 0.1 + s / 1000, mode="max") is None


def test_a_metric_whose_good_end_is_not_known_is_left_out() -> None:
    verdict = MetricLossDisagreement().check(
        validated({"val_loss": learning, "val_x": _falling}, modes={"val_x": ""})
    )
    assert isinstance(verdict, NotObserved)


@pytest.mark.parametrize("name", ["val_kl", "val_kl_loss", "val_recon_nll"])
def test_the_terms_of_a_loss_may_rise(name: str) -> None:
    """The divergence of a variational autoencoder does, while the whole falls."""
    history = validated(
        {"val_loss": learning, name: lambda s: 1 + s / 50}, modes={"val_loss": "min", name: "min"}
    )
    assert MetricLossDisagreement()(history) == []


def test_a_model_too_sure_of_itself_is_another_finding() -> None:
    """W11: the loss rises while the metric still gets better."""
    assert _found(lambda s: 0.5 + s / 1000, loss=lambda s: 0.5 + s / 500) is None


@pytest.mark.parametrize("seed", range(6))
def test_a_metric_that_only_wavers_is_nothing(seed: int) -> None:
    assert _found(noisy(lambda s: 0.8, 0.1, seed=seed)) is None
    assert _found(noisy(lambda s: 0.8, 0.1, seed=seed), loss=noisy(learning, 0.3)) is None


@pytest.mark.parametrize(("lost", "found"), [(0.08, True), (0.03, False)])
def test_how_much_was_lost_decides(lost: float, found: bool) -> None:
    """From third to third it is two thirds of that: 5 % of 0.9 at least."""
    assert (_found(lambda s: 0.9 - lost * s / 400) is not None) is found


def test_a_loss_that_does_not_move_disagrees_with_nothing() -> None:
    assert _found(_falling, loss=lambda s: 2.3 - s / 1e5) is None


def test_an_accident_in_between_is_no_trend() -> None:
    assert _found(lambda s: 0.3 if 150 < s < 200 else 0.9) is None


def test_early_validations_are_forgotten() -> None:
    """What fell first and rises since is healthy now."""

    def metric(step: int) -> float:
        return 0.9 - step / 200 if step < 60 else 0.6 + step / 2000

    assert _found(metric, every=5) is None


def test_not_a_number_is_left_out() -> None:
    assert _found(lambda s: math.nan if s % 40 == 19 else _falling(s)) is not None
    assert _found(lambda s: math.nan) is None


def test_what_cannot_be_judged() -> None:
    assert isinstance(MetricLossDisagreement().check(story()), NotObserved)
    alone = validated({"val_loss": learning}, modes={"val_loss": "min"})
    assert isinstance(MetricLossDisagreement().check(alone), NotObserved)
    few = validated({"val_loss": learning, "val_x": _falling}, modes={"val_x": "max"}, every=110)
    assert isinstance(MetricLossDisagreement().check(few), NotObserved)


# Too low ----------------------------------------------------------------------------------------


def _accuracy(
    value: Curve, name: str = "val_acc", loss: Curve = learning, **about: Any
) -> Finding | None:
    more = {**classes(10), **about}
    metrics = {"val_loss": loss, name: value}
    history = validated(metrics, modes={name: "max"}, every=50, more=more)
    findings = MetricLossDisagreement()(history)
    return findings[0] if findings else None


def test_an_accuracy_at_chance_while_the_loss_goes_to_zero_is_found() -> None:
    """Worked out against the wrong targets: it neither falls nor rises."""
    finding = _accuracy(lambda s: 0.1 + 0.01 * math.sin(s))
    assert finding is not None
    assert finding.severity == "suspect"
    assert "says that about 96% or more of the predictions are right" in finding.message
    assert finding.evidence.value == pytest.approx(math.exp(-learning(299)) - 0.1, abs=0.02)


def test_the_accuracy_that_a_loss_promises_is_no_finding() -> None:
    """A model whose probabilities are true is right in exp(-loss) or more."""
    assert _accuracy(lambda s: math.exp(-learning(s))) is None
    assert _accuracy(lambda s: 0.75) is None


def test_an_accuracy_that_rises_is_only_late() -> None:
    assert _accuracy(lambda s: s / 700) is None


def test_a_loss_that_promises_nothing_allows_any_accuracy() -> None:
    assert _accuracy(lambda s: 0.1, loss=lambda s: 2.0) is None


@pytest.mark.parametrize("name", ["val_x", "val_f1", "val_macro_acc", "mAcc", "val_seq_accuracy"])
def test_other_metrics_are_averages_of_their_own(name: str) -> None:
    assert _accuracy(lambda s: 0.1, name) is None


def test_a_loss_that_is_weighted_or_of_many_answers_promises_nothing() -> None:
    known = {"function": "cross_entropy", "reduction": "mean", "classes": 10, "weighted": True}
    assert _accuracy(lambda s: 0.1, losses={"cross_entropy#0": known}) is None
    known = {"function": "binary_cross_entropy_with_logits", "reduction": "mean"}
    for shape, found in [([8], True), ([8, 1], True), ([8, 20], False)]:
        about: dict[str, Any] = {"losses": {"bce#0": {**known, "input_shape": shape}}}
        assert (_accuracy(lambda s: 0.5, **about) is not None) is found


def test_a_validation_loss_in_another_unit_promises_nothing() -> None:
    assert _accuracy(lambda s: 0.1, loss=lambda s: learning(s) / 10) is None


def test_a_class_that_most_samples_are_of_makes_the_loss_small() -> None:
    """An accuracy averaged over classes stays at chance while only that class is told."""

    def change(step: int, values: Any) -> None:
        values["class/majority_share"] = {"cross_entropy#0": 0.95}

    metrics = {"val_loss": learning, "val_acc": lambda s: 0.1}
    options: dict[str, Any] = {"modes": {"val_acc": "max"}, "every": 50, "more": classes(10)}
    assert MetricLossDisagreement()(validated(metrics, **options))
    assert not MetricLossDisagreement()(validated(metrics, change=change, **options))


@pytest.mark.parametrize(
    "settings", [{"apart": 2}, {"share": 2}, {"worse": -1}, {"validations": 5}]
)
def test_thresholds_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        MetricLossDisagreement(**settings)
