"""`non-finite`."""

from __future__ import annotations

import math
from typing import Any

from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.non_finite import NonFinite
from rules.stories import STEPS, call, healthy_loss, story, weight


def _nan_from(step: int, *, calls: tuple[int, ...] = (), weights: tuple[int, ...] = ()) -> Any:
    def change(at: int, values: Any) -> None:
        if at >= step:
            values["gradient/total_norm"] = {"": math.nan}
            for i in calls:
                values["activation/nonfinite_count"][call(i)] = 64.0
            for i in weights:
                values["gradient/nonfinite_count"][weight(i)] = 9.0

    return change


def _skipping(*steps: int) -> Any:
    def change(at: int, values: Any) -> None:
        values["update/skipped"] = {"": float(at in steps)}
        values["amp/scale"] = {"": 1024.0}
        if at in steps:
            values["gradient/total_norm"] = {"": math.inf}
            values["gradient/nonfinite_count"][weight(0)] = 5.0
            del values["update/ratio"], values["update/norm"], values["update/weight_norm"]

    return change


def test_the_first_output_with_nan_is_named() -> None:
    """W2, P47."""
    change = _nan_from(STEPS[-1], calls=(2, 3, 4), weights=(0, 1))
    history = story(change, loss=lambda s: math.nan if s >= STEPS[-1] else 0.5)
    (finding,) = NonFinite()(history)
    assert finding.severity == "bad"
    assert finding.places == (call(2), call(3), call(4))
    assert finding.steps == (STEPS[-1], STEPS[-1])
    assert finding.message == (
        f"At step {STEPS[-1]} the loss is nan; the loss of the step before was 0.5. At step "
        f"{STEPS[-1]} `{call(2)}` is the first output with such values (64), then `{call(3)}` and "
        f"`{call(4)}`."
    )


def test_backward_meets_the_last_parameter_first() -> None:
    """A finite loss with NaN in the gradients: backward runs from the output to the input."""
    history = story(_nan_from(STEPS[-1], weights=(0, 1, 2)))
    (finding,) = NonFinite()(history)
    assert finding.places == (weight(2), weight(1), weight(0))
    assert f"At step {STEPS[-1]} the loss is finite, but a gradient is not" in finding.message
    assert f"backward met it first in the gradient of `{weight(2)}` (9 values)" in finding.message


def test_a_loss_between_two_looks_gives_the_exact_step() -> None:
    history = story(loss=lambda s: math.inf if s == STEPS[-1] - 1 else healthy_loss(s))
    (finding,) = NonFinite()(history)
    assert finding.steps[0] == STEPS[-1] - 1


def test_a_loss_that_is_finite_again_is_only_suspect() -> None:
    step = STEPS[-1] - 5
    history = story(loss=lambda s: math.nan if s == step else healthy_loss(s))
    (finding,) = NonFinite()(history)
    assert finding.severity == "suspect"
    assert finding.message.endswith("It has passed.")


def test_without_a_loss_the_gradients_are_enough() -> None:
    history = story(_nan_from(STEPS[-1], weights=(1,)), loss=None)
    (finding,) = NonFinite()(history)
    assert finding.message.startswith(f"At step {STEPS[-1]} a gradient is not finite.")


def test_steps_that_the_scaler_skipped_are_no_finding() -> None:
    """P12: the search for a scale looks like an explosion."""
    history = story(_skipping(0, 1, 2, 3))
    assert NonFinite()(history) == []


def test_a_scaler_that_skips_again_and_again_is_a_finding() -> None:
    """P12."""
    rule = NonFinite(max_skips=12)
    for many, found in ((11, 0), (12, 1)):
        history = story(_skipping(*STEPS[:many]), steps=STEPS[:many])
        assert len(rule(history)) == found
    (finding,) = rule(history)
    assert finding.severity == "bad"
    assert finding.evidence.value == 12
    assert "skipped all 12 watched steps from 0 to 19" in finding.message
    assert "The scale is down to 1,020." in finding.message


def test_under_a_scaler_one_bad_loss_is_only_suspect() -> None:
    history = story(_skipping(), loss=lambda s: math.nan if s == STEPS[-1] else healthy_loss(s))
    (finding,) = NonFinite()(history)
    assert finding.severity == "suspect"


def test_infinite_activations_alone_are_no_finding() -> None:
    """Attention masks are made of them."""

    def change(at: int, values: Any) -> None:
        values["activation/nonfinite_count"][call(0)] = 100.0

    assert NonFinite()(story(change)) == []


def test_a_run_that_has_long_been_nan_is_still_found() -> None:
    history = story(_nan_from(3, weights=(0,)), loss=lambda s: math.nan if s >= 3 else 1.0)
    (finding,) = NonFinite()(history)
    assert finding.severity == "bad"


def test_without_loss_and_gradients_nothing_is_observed() -> None:
    def change(at: int, values: Any) -> None:
        del values["gradient/total_norm"]

    verdict = NonFinite().check(story(change, loss=None))
    assert isinstance(verdict, NotObserved)
    assert verdict.reason == "neither `loss/train` nor `gradient/total_norm` was measured"
