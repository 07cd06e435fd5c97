"""`over-regularisation` by dropout that is known to be strong."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_diag.finding import Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.dropout import amplified, named
from lightning_diag.rules.over_regularisation import OverRegularisation
from rules.fit_stories import Curve, classes, validated
from rules.stories import Values, meta, story

_TWO = {"net.1.drop": 0.9, "net.3.drop": 0.9}


def _about(dropout: dict[str, float] | None, *, optimizer: str = "SGD") -> dict[str, Any]:
    known = {} if dropout is None else {"dropout": dropout}
    return {**meta(optimizers=[optimizer]), **classes(10), **known}


def _growing(step: int) -> float:
    """Return a loss that doubles every ten steps from step 30 on."""
    return 2.3 * 2 ** (max(0, step - 30) / 10)


def _steps(ratio: float) -> Any:
    def change(step: int, values: Values) -> None:
        values["update/ratio"] = dict.fromkeys(values["update/ratio"], ratio)

    return change


def _lost(
    dropout: dict[str, float] | None = _TWO,
    *,
    loss: Curve = _growing,
    ratio: float = 0.1,
    optimizer: str = "SGD",
    steps: int = 100,
) -> Finding | None:
    about = _about(dropout, optimizer=optimizer)
    findings = OverRegularisation()(
        story(_steps(ratio), loss=loss, steps=range(steps), about=about)
    )
    return findings[0] if findings else None


def _dull(dropout: dict[str, float] | None, train: Curve, validation: Curve) -> Finding | None:
    more = {**classes(10), **({} if dropout is None else {"dropout": dropout})}
    history = validated({"val_loss": validation}, loss=train, more=more)
    findings = OverRegularisation()(history)
    return findings[0] if findings else None


def test_a_run_that_dropout_has_thrown_off_is_found_at_once() -> None:
    """UMLAUT, W12: the rate is a usual one, and its steps are ten times as large as without."""
    finding = _lost()
    assert finding is not None
    assert finding.severity == "bad"
    assert finding.places == tuple(_TWO)
    assert "drops 90 %, and multiplies what is left by 10 (2 such modules)" in finding.message
    assert "would have changed by 0.01 of its size" in finding.message


@pytest.mark.parametrize(("probability", "found"), [(0.8, True), (0.79, False), (0.5, False)])
def test_only_strong_dropout_explains_it(probability: float, found: bool) -> None:
    assert (_lost({"drop": probability}, ratio=0.01) is not None) is found


def test_without_dropout_or_without_knowing_of_it_nothing_is_said() -> None:
    assert _lost({}) is None
    assert _lost(None) is None


@pytest.mark.parametrize(("ratio", "found"), [(0.29, True), (0.31, False)])
def test_a_rate_that_is_too_high_without_dropout_as_well_is_to_blame(
    ratio: float, found: bool
) -> None:
    """Two modules that keep a tenth each make gradients ten times as large."""
    assert (_lost(ratio=ratio) is not None) is found


def test_steps_of_adam_do_not_grow_with_the_gradient() -> None:
    assert _lost(ratio=0.1, optimizer="Adam") is None
    assert _lost(ratio=0.02, optimizer="Adam") is not None


def test_only_steps_before_the_loss_grew_count() -> None:
    """Those after it are large whatever the reason."""

    def change(step: int, values: Values) -> None:
        _steps(0.1 if _growing(step) < 3 * 2.3 else 1e6)(step, values)

    history = story(change, loss=_growing, steps=range(100), about=_about(_TWO))
    assert OverRegularisation()(history) != []


def test_a_loss_that_ends_after_it_has_grown_is_lost() -> None:
    assert _lost(loss=lambda s: _growing(s) if s < 60 else math.nan) is not None


def test_nan_out_of_the_blue_has_another_cause() -> None:
    """P22: a broken sample, say."""
    assert _lost(loss=lambda s: 2.3 if s < 60 else math.nan) is None


def test_a_run_that_learns_with_strong_dropout_is_healthy() -> None:
    """Graph networks do well with that much."""

    def loss(step: int) -> float:
        return 0.3 + 2 * math.exp(-step / 30)

    assert _lost(loss=loss) is None
    assert _dull(_TWO, loss, loss) is None
    # The loss of training stays high as long as it is not that of the whole network.
    assert _dull(_TWO, lambda s: 1.6, loss) is None


def test_a_run_that_does_not_learn_with_strong_dropout_is_found() -> None:
    """Also where validation is as bad as training."""
    finding = _dull(_TWO, lambda s: 2.0, lambda s: 2.0)
    assert finding is not None
    assert finding.severity == "suspect"
    assert "Dropout so strong that the model does not learn: `net.1.drop`" in finding.message
    assert _dull({"drop": 0.5}, lambda s: 2.0, lambda s: 2.0) is None


def test_a_run_that_fits_its_training_data_is_not_held_back() -> None:
    """That is overfitting."""
    assert _dull(_TWO, lambda s: 0.6, lambda s: 2.0) is None


def test_where_no_module_drops_anything_sets_must_differ_more() -> None:
    """It may be augmentation, or two sets that differ a little."""
    assert _dull(None, lambda s: 2.25, lambda s: 2.1) is not None
    assert _dull({}, lambda s: 2.25, lambda s: 2.1) is None
    assert _dull({}, lambda s: 2.6, lambda s: 2.1) is not None


def test_a_run_without_steps_is_not_judged() -> None:
    history = story(
        lambda step, values: values.pop("update/ratio"),
        loss=_growing, steps=range(100), about=_about(_TWO),
    )  # fmt: skip
    assert isinstance(OverRegularisation().check(history), NotObserved)
    assert isinstance(OverRegularisation().check(History()), NotObserved)


def test_dropout_of_everything_is_told_as_it_is() -> None:
    assert named({"drop": 1.0}) == "`drop` drops 100 %"
    assert amplified({"drop": 1.0}) == math.inf
