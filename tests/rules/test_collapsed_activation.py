"""`collapsed-activation`."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.collapsed_activation import CollapsedActivation
from rules.signal_stories import spread
from rules.stories import STEPS, call, flat, geometric, healthy_loss, meta, story


def test_a_signal_that_is_lost_along_depth_is_found() -> None:
    """W7, W8: ten tanh layers with weights of 0.01."""
    history = story(spread(0.1), function="tanh", loss=flat)
    (finding,) = CollapsedActivation()(history)
    assert finding.severity == "bad"
    assert finding.places == tuple(call(i, "tanh") for i in (2, 3, 4))
    assert finding.message == (
        "The signal at `net.4.act/tanh#0` has shrunk to 0.0001 of its spread before (threshold "
        "0.02), in each of 4 looks from step 390 to 399, as has that at "
        "`net.2.act/tanh#0` and `net.3.act/tanh#0`. The loss stands still."
    )


@pytest.mark.parametrize(("ratio", "found"), [(0.37, 1), (0.38, 0)])
def test_the_threshold_decides(ratio: float, found: int) -> None:
    """0.376 four times is 0.02."""
    history = story(spread(ratio), function="tanh", loss=flat)
    assert len(CollapsedActivation()(history)) == found


def _by_sample(ratio: float) -> Any:
    """Return spreads over samples beside those over all elements, which biases hold up."""

    def change(step: int, values: Any) -> None:
        spread(0.9)(step, values)
        if step < 4 or step in STEPS[16::16]:
            sizes = geometric(0.6, ratio, 5)
            values["activation/sample_spread"] = {call(i, "tanh"): sizes[i] for i in range(5)}

    return change


@pytest.mark.parametrize(("ratio", "found"), [(0.37, 1), (0.38, 0)])
def test_what_differs_from_sample_to_sample_is_the_signal(ratio: float, found: int) -> None:
    """W7: ten layers with PyTorch's own weights, whose biases differ from unit to unit."""
    assert len(CollapsedActivation()(story(_by_sample(ratio), function="tanh", loss=flat))) == found


@pytest.mark.parametrize(("ratio", "found"), [(0.17, 1), (0.18, 0)])
def test_what_is_not_faint_is_given_time(ratio: float, found: int) -> None:
    """0.178 four times is a thousandth; Adam blows up what is left of more."""
    steps = [step for step in STEPS if step < 100]
    history = story(_by_sample(ratio), function="tanh", loss=flat, steps=steps)
    assert len(CollapsedActivation()(history)) == found


@pytest.mark.parametrize(
    ("ratio", "pace", "until", "loss", "found"),
    [
        (0.31, 1e-2, 60, flat, 1),  # 0.316 four times is a hundredth
        (0.32, 1e-2, 60, flat, 0),
        (0.31, 4e-3, 60, flat, 0),
        (0.31, 1e-2, 46, flat, 0),
        (0.31, 1e-2, 60, healthy_loss, 0),
    ],
    ids=["weak", "not weak", "weights hardly move", "too early", "learns"],
)
def test_less_faint_is_told_soon_if_weights_move_and_the_loss_stands_still(
    ratio: float, pace: float, until: int, loss: Any, found: int
) -> None:
    """W7: ten tanh layers with PyTorch's own weights, which begin to learn later."""

    def change(step: int, values: Any) -> None:
        _by_sample(ratio)(step, values)
        values["update/ratio"] = dict.fromkeys(values["update/ratio"], pace)

    steps = [step for step in STEPS if step < until]
    findings = CollapsedActivation()(story(change, function="tanh", loss=loss, steps=steps))
    assert [finding.severity for finding in findings] == ["suspect"] * found
    assert all("The loss stands still." in finding.message for finding in findings)


def test_a_network_that_learns_all_the_same_is_healthy() -> None:
    assert CollapsedActivation()(story(spread(0.1), function="tanh")) == []


def test_a_bad_start_that_repairs_itself_is_healthy() -> None:
    """Within three steps."""
    for many in range(1, 30):
        history = story(spread(0.1, until=3), function="tanh", loss=flat, steps=STEPS[:many])
        assert CollapsedActivation()(history) == []


def test_it_is_suspect_before_the_loss_has_had_time() -> None:
    history = story(spread(0.1), function="tanh", loss=flat, steps=STEPS[:6])
    (finding,) = CollapsedActivation()(history)
    assert finding.severity == "suspect"


def test_zeros_are_dead_units() -> None:
    """W5: `dead-relu`."""

    def change(step: int, values: Any) -> None:
        values["activation/std"] = {call(i): 0.0 if i > 1 else 1.0 for i in range(5)}

    assert CollapsedActivation()(story(change, loss=flat)) == []


def test_sigmoids_are_not_judged() -> None:
    history = story(spread(0.1, function="sigmoid"), function="sigmoid", loss=flat)
    verdict = CollapsedActivation().check(history)
    assert verdict == NotObserved(
        "collapsed-activation", "fewer than two hidden activations were seen"
    )


def test_a_small_signal_at_the_output_is_not_hidden() -> None:
    about = meta(function="tanh")
    about["sites"]["out/tanh#0"] = {"function": "tanh", "kind": "tanh", "module": "out"}

    def change(step: int, values: Any) -> None:
        spread(1.0)(step, values)
        values["activation/std"]["out/tanh#0"] = 1e-6

    assert CollapsedActivation()(story(change, function="tanh", loss=flat, about=about)) == []


def test_a_generator_and_its_judge_are_not_compared() -> None:
    """P35."""
    about = meta(function="tanh", optimizers=["Adam", "Adam"])
    verdict = CollapsedActivation().check(story(spread(0.1), loss=flat, about=about))
    assert isinstance(verdict, NotObserved)
