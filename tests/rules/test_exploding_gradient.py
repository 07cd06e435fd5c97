"""`exploding-gradient`."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_diag.rules.exploding_gradient import ExplodingGradient
from rules.stories import LAYERS, STEPS, flat, geometric, healthy_loss, story, weight

ONSET = 60


def _norms(before: float, after: float, *, at: int = ONSET) -> Any:
    def change(step: int, values: Any) -> None:
        values["gradient/total_norm"] = {"": before if step < at else after}
        if step >= at:
            values["gradient/norm"][weight(3)] *= 1e4

    return change


def _loss(before: float, after: float) -> Any:
    return lambda step: before if step < ONSET else after


def test_a_norm_that_outgrows_its_history_with_the_loss_is_found() -> None:
    """W2: the loss jumps off a cliff."""
    (finding,) = ExplodingGradient()(story(_norms(2.0, 300.0), loss=_loss(0.5, 2.0)))
    assert finding.severity == "bad"
    assert finding.steps == (ONSET, STEPS[-1])
    assert finding.evidence.value == 150.0
    assert finding.evidence.threshold == 100.0
    assert finding.message.startswith(
        "From step 60 on the gradient norm is up to 300, over 100 times the 2 of the 16 watched "
        "steps before; the loss went from 0.5 to 2."
    )


def test_the_parameter_that_grew_most_is_named_while_it_is_recent() -> None:
    steps = [step for step in STEPS if step <= ONSET + 9]
    history = story(_norms(2.0, 300.0), loss=_loss(0.5, 2.0), steps=steps)
    (finding,) = ExplodingGradient()(history)
    assert finding.places[0] == weight(3)


@pytest.mark.parametrize(("after", "loss"), [(199.0, 2.0), (300.0, 1.49)])
def test_just_below_either_threshold_nothing_is_said(after: float, loss: float) -> None:
    assert ExplodingGradient()(story(_norms(2.0, after), loss=_loss(0.5, loss))) == []


def test_a_norm_that_comes_back_is_no_finding_any_more() -> None:
    def change(step: int, values: Any) -> None:
        values["gradient/total_norm"] = {"": 900.0 if ONSET <= step < 100 else 2.0}

    assert ExplodingGradient()(story(change, loss=_loss(0.5, 2.0))) == []


def test_growth_that_ends_in_nan_is_found() -> None:
    def change(step: int, values: Any) -> None:
        norm = 2.0 if step < ONSET else 1e6 if step == ONSET else math.nan
        values["gradient/total_norm"] = {"": norm}

    history = story(change, loss=lambda s: 0.5 if s <= ONSET else math.nan)
    (finding,) = ExplodingGradient()(history)
    assert finding.steps[0] == ONSET
    assert finding.evidence.value == 5e5


def test_growth_to_infinity_has_finite_evidence() -> None:
    history = story(_norms(2.0, math.inf), loss=_loss(0.5, math.inf))
    (finding,) = ExplodingGradient()(history)
    assert math.isfinite(finding.evidence.value)


def test_nan_without_growth_is_not_an_explosion() -> None:
    """NaN in a batch is `non-finite`, and nothing else."""
    history = story(_norms(2.0, math.nan), loss=_loss(0.5, math.nan))
    assert ExplodingGradient()(history) == []


def test_a_divergence_in_the_first_steps_is_found() -> None:
    def change(step: int, values: Any) -> None:
        values["gradient/total_norm"] = {"": 3.0 * 1e3**step}

    history = story(change, loss=lambda s: 2.0 * 100.0**s, steps=[0, 1, 2, 3])
    (finding,) = ExplodingGradient()(history)
    assert finding.steps == (1, 3)


@pytest.mark.parametrize(("last", "found"), [(ONSET, 0), (ONSET + 3, 1)])
def test_one_batch_that_is_not_like_the_others_is_no_explosion(last: int, found: int) -> None:
    """A sample of a rare class in a run that has learned all others; four losses are a state."""
    steps = [step for step in STEPS if step <= last]
    loss = lambda step: 2.3 if step == 0 else _loss(0.01, 0.5)(step)  # noqa: E731
    history = story(_norms(2.0, 300.0), loss=loss, steps=steps)
    assert len(ExplodingGradient()(history)) == found


def test_one_loss_far_above_the_first_one_is_an_explosion() -> None:
    steps = [step for step in STEPS if step <= ONSET]
    loss = {0: 2.3, ONSET: 7.0}
    history = story(_norms(2.0, 300.0), loss=lambda s: loss.get(s, 0.5), steps=steps)
    assert len(ExplodingGradient()(history)) == 1


def test_clipping_that_works_is_no_alarm() -> None:
    """R6, P34: norms before clipping are large, the loss comes down."""

    def change(step: int, values: Any) -> None:
        values["gradient/total_norm"] = {"": 500.0 if step % 2 else 5.0}
        values["gradient/clip_coefficient"] = {"": 0.002}

    assert ExplodingGradient()(story(change)) == []


def test_a_gradient_that_fades_and_twitches_is_no_alarm() -> None:
    def change(step: int, values: Any) -> None:
        values["gradient/total_norm"] = {"": math.exp(-step / 20) * (200.0 if step == 300 else 1)}

    assert ExplodingGradient()(story(change)) == []


def _by_depth(ratio: float) -> Any:
    names = [weight(i) for i in range(LAYERS)]

    def change(step: int, values: Any) -> None:
        values["gradient/norm"] = dict(zip(names, geometric(ratio, 0.2), strict=True))

    return change


def test_gradients_that_grow_toward_the_input_are_suspect() -> None:
    """W8: ten tanh layers at std 1."""
    (finding,) = ExplodingGradient()(story(_by_depth(100.0), loss=flat))
    assert finding.severity == "suspect"
    assert finding.evidence.value == pytest.approx(625.0)  # 5^4: over the last two layers
    assert finding.places[0] == weight(0)
    assert finding.evidence.observations == 8


def test_growth_with_depth_that_does_no_harm_is_not_spoken_of() -> None:
    assert ExplodingGradient()(story(_by_depth(100.0), loss=healthy_loss)) == []


def test_growth_with_depth_below_the_threshold_is_not_spoken_of() -> None:
    rule = ExplodingGradient(depth_growth=626.0)
    assert rule(story(_by_depth(100.0), loss=flat)) == []


def _at_start(norm: float) -> Any:
    def change(step: int, values: Any) -> None:
        values["update/weight_norm"] = {weight(0): 3.0, weight(1): 4.0}
        if step == 0:
            values["gradient/total_norm"] = {"": norm}

    return change


@pytest.mark.parametrize(
    ("norm", "after", "found"),
    [(51.0, math.nan, 1), (51.0, 7.0, 1), (49.0, math.nan, 0), (51.0, 6.0, 0)],
)
def test_a_first_gradient_that_outweighs_the_weights_is_found_if_the_loss_explodes(
    norm: float, after: float, found: int
) -> None:
    """W2, C6: nothing before it can be compared with."""
    history = story(
        _at_start(norm), loss=lambda step: 2.3 if step == 0 else after, steps=STEPS[:20]
    )
    findings = ExplodingGradient()(history)
    assert len(findings) == found
    if found:
        assert findings[0].severity == "bad"
        assert "10.2 times that of the weights" in findings[0].message


@pytest.mark.parametrize(("many", "found"), [(1, 0), (4, 0), (5, 1)])
def test_the_losses_after_the_first_gradient_are_waited_for(many: int, found: int) -> None:
    history = story(_at_start(51.0), loss=lambda step: 2.3 if step == 0 else 9.0, steps=range(many))
    assert len(ExplodingGradient()(history)) == found


def test_a_first_loss_that_is_not_finite_is_no_explosion() -> None:
    """The logarithm of 0 is `non-finite`, and nothing else."""
    assert ExplodingGradient()(story(_at_start(51.0), loss=lambda step: math.inf)) == []


def test_a_large_first_gradient_alone_is_healthy() -> None:
    """Of a large loss, for Adam or with clipping."""
    assert ExplodingGradient()(story(_at_start(1e9), loss=healthy_loss)) == []
