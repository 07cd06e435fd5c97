"""`over-regularisation`."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_diag.finding import Finding
from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.over_regularisation import OverRegularisation, decay_pull
from rules.fit_stories import Curve, classes, decay, decaying, learning, noisy, validated
from rules.stories import STEPS, healthy_loss, meta, run_of, story


def _held(step: int) -> float:
    """Return a loss that stops at 1.5."""
    return 1.5 + math.exp(-step / 30)


def _decay(share: float, loss: Curve = _held, change: Any = decaying) -> Finding | None:
    findings = OverRegularisation()(story(change, loss=loss, about=decay(share)))
    return findings[0] if findings else None


def _dropout(train: Curve, validation: Curve, **options: Any) -> Finding | None:
    options = {"more": classes(10), **options}
    findings = OverRegularisation()(validated({"val_loss": validation}, loss=train, **options))
    return findings[0] if findings else None


def test_decay_that_outweighs_the_data_is_found() -> None:
    """C2."""
    finding = _decay(0.5)
    assert finding is not None
    assert finding.severity == "suspect"
    assert "its pull was at least 10 times what weights moved by (threshold 0.5)" in finding.message
    assert "`net.0.weight`" in finding.message


@pytest.mark.parametrize(("share", "found"), [(0.026, True), (0.024, False)])
def test_the_pull_decides(share: float, found: bool) -> None:
    """The learning rate is 0.1, weights move by 0.005 of their size."""
    assert (_decay(share, loss=lambda s: 1.0 + 1.3 * math.exp(-s / 30)) is not None) is found


@pytest.mark.parametrize(("share", "found"), [(0.0026, True), (0.0024, False)])
def test_weights_that_are_nearly_gone_need_a_tenth_of_the_pull(share: float, found: bool) -> None:
    """They are down to a fifth, and the loss is above half of the first."""
    finding = _decay(share)
    assert (finding is not None) is found
    if finding:
        assert "(threshold 0.05)" in finding.message


@pytest.mark.parametrize(("share", "found"), [(0.11, True), (0.09, False)])
def test_adam_divides_decay_by_the_size_of_the_gradient(share: float, found: bool) -> None:
    """TheDeepChecker: the gradient of the penalty is twice that of the data."""

    def change(step: int, values: Any) -> None:
        decaying(step, values)
        values["gradient/norm"] = dict.fromkeys(values["gradient/norm"], 0.05)

    def loss(step: int) -> float:
        return 1.0 + 1.3 * math.exp(-step / 30)

    groups = [{"weight_decay": share, "decoupled_weight_decay": False}]
    about = {**meta(), "optimizers": [{"class": "Adam", "groups": groups}]}
    findings = OverRegularisation()(story(change, loss=loss, about=about))
    assert bool(findings) is found
    if findings:
        assert "its gradient was at least 2" in findings[0].message


def test_weights_that_did_not_shrink_are_not_held_back() -> None:
    """P37: with norm layers decay and gradient balance, at any size."""

    def change(step: int, values: Any) -> None:
        values["update/ratio"] = dict.fromkeys(values["update/ratio"], 5e-3)

    assert _decay(0.5, change=change) is None


def test_decay_under_which_the_loss_goes_to_zero_is_healthy() -> None:
    assert _decay(0.5, loss=learning) is None


def test_decay_under_which_the_loss_still_falls_is_not_judged_yet() -> None:
    assert _decay(0.5, loss=lambda step: 2.3 - step / 300) is None


def test_momentum_adds_to_the_pull() -> None:
    about = {
        **meta(),
        "optimizers": [{"class": "SGD", "groups": [{"weight_decay": 0.01, "momentum": 0.9}]}],
    }
    assert decay_pull(story(about=about)) == pytest.approx([0.1 * 0.01 / 0.1])


@pytest.mark.parametrize(("gone", "share"), [(True, 5 / 6), (False, 0.0)])
def test_steps_of_adam_are_those_of_decay_where_it_outweighs_the_data(
    gone: bool, share: float
) -> None:
    """Its gradient is five times that of the data, and the weights are down to a fifth."""

    def change(step: int, values: Any) -> None:
        if gone:
            decaying(step, values)
        weights = values["update/weight_norm"]
        values["gradient/norm"] = {n: 0.1 * weights[n] for n in values["gradient/norm"]}
        values["update/ratio"] = dict.fromkeys(values["update/ratio"], 0.2)
        values["lr/value"] = {"Adam/group0": 0.0}

    groups = [{"weight_decay": 0.5, "decoupled_weight_decay": False}]
    about = {**meta(), "optimizers": [{"class": "Adam", "groups": groups}]}
    assert decay_pull(story(change, about=about)) == pytest.approx([0.2 * share])


def test_groups_have_their_own_decay() -> None:
    """Most leave biases and norm layers out."""

    def change(step: int, values: Any) -> None:
        values["lr/value"] = {"a": 0.1, "b": 0.01}

    groups = [{"weight_decay": 0.5}, {"weight_decay": 0.0}]
    history = story(change, about={**meta(), "optimizers": [{"class": "SGD", "groups": groups}]})
    assert decay_pull(history) == pytest.approx([0.05, 0.0])


def test_noise_that_keeps_the_model_from_learning_is_found() -> None:
    """UMLAUT: dropout that is far too strong."""
    finding = _dropout(noisy(lambda s: 2.8 + 8 * math.exp(-s / 20), 0.02), lambda s: 2.3)
    assert finding is not None
    assert "Noise in training, such as dropout" in finding.message
    assert finding.evidence.observations == 3


@pytest.mark.parametrize(("train", "found"), [(2.25, True), (2.15, False)])
def test_the_difference_decides(train: float, found: bool) -> None:
    assert (_dropout(lambda s: train, lambda s: 2.1) is not None) is found


@pytest.mark.parametrize("final", [0.1, 0.5, 0.85])
def test_dropout_that_does_its_work_is_healthy(final: float) -> None:
    """R7: also with augmented data validation lies far below training, and is good."""
    train = noisy(lambda s: final * 2 + 2.3 * math.exp(-s / 50), 0.1)
    assert _dropout(train, lambda s: final + 2.3 * math.exp(-s / 50)) is None


def test_validation_that_still_improves_is_not_judged_yet() -> None:
    assert _dropout(lambda s: 3.0 - s / 600, lambda s: 2.3 - s / 600) is None


def test_validation_that_hardly_improves_any_more_is_found() -> None:
    """After as long again at this pace it is still far above half of chance."""
    assert _dropout(lambda s: 2.4 - s / 3000, lambda s: 1.9 - s / 3000) is not None
    assert _dropout(lambda s: 1.7 - s / 3000, lambda s: 1.28 - s / 3000) is None


def test_training_losses_before_a_validation_were_higher_as_they_fell() -> None:
    """The mean of the steps before is behind by half of what the loss falls in them."""

    def loss(step: int) -> float:
        return 2.3 - step / 1900

    history = validated({"val_loss": loss}, loss=loss, every=80, more=classes(10))
    assert OverRegularisation(below=0.005)(history) == []


def test_a_model_that_did_learn_is_not_kept_from_it() -> None:
    """Validation was low, and rose again: that is instability."""

    def validation(step: int) -> float:
        return 0.5 if step < 60 else 2.0

    assert _dropout(lambda s: 2.4, validation) is None
    assert _dropout(lambda s: 2.4, lambda s: 2.0) is not None


def test_batch_norm_over_few_samples_makes_noise_of_its_own() -> None:
    for size, found in [(2.0, False), (32.0, True)]:

        def change(step: int, values: Any, size: float = size) -> None:
            values["batch_norm/batch_size"] = {"net.1/batch_norm#0": size}

        assert bool(_dropout(lambda s: 2.5, lambda s: 2.1, change=change)) is found


def test_sets_that_differ_are_no_dropout_where_the_loss_function_is_not_known() -> None:
    """Squared errors of a few hundred samples differ by 7 % from set to set."""
    train = noisy(lambda s: 1.0, 0.2)
    assert _dropout(train, lambda s: 0.9, more={}) is None
    assert _dropout(train, lambda s: 0.75, more={}) is not None


def test_what_cannot_be_judged() -> None:
    assert isinstance(OverRegularisation().check(story(steps=range(200))), NotObserved)
    game = story(decaying, loss=_held, about=meta(optimizers=["Adam", "Adam"]))
    assert isinstance(OverRegularisation().check(game), NotObserved)
    assert OverRegularisation()(run_of([], meta())) == []


def test_a_healthy_run_with_the_usual_decay_is_healthy() -> None:
    history = story(loss=healthy_loss, about=decay(1e-4), steps=STEPS)
    assert OverRegularisation()(history) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"pull": -1},
        {"shrunk": 2},
        {"high": 2},
        {"below": 2},
        {"dull": 2},
        {"outweighs": -1},
        {"patience": 1},
    ],
)
def test_thresholds_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        OverRegularisation(**settings)
