"""`saturated-activation`."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.saturated_activation import SaturatedActivation, hidden_calls
from rules.stories import LAYERS, STEPS, call, flat, meta, story


def _share(share: float, *, layer: int = 1, function: str = "tanh", after: int = -1) -> Any:
    def change(step: int, values: Any) -> None:
        if step > after:
            values["activation/saturated_fraction"][call(layer, function)] = share

    return change


def test_tanh_at_its_ends_is_found() -> None:
    """W3, W8."""
    (finding,) = SaturatedActivation()(story(_share(0.8), function="tanh", steps=STEPS[:20]))
    assert finding.severity == "suspect"
    assert finding.places == (call(1, "tanh"),)
    assert finding.message == (
        "At `net.1.act/tanh#0` at least 80% of the inputs lie where the function is flat "
        "(threshold 50%) in each of the 6 watched steps from 25 to 34."
    )


def test_it_is_a_note_if_the_loss_has_halved() -> None:
    """Half of a layer may saturate in runs that learn well."""
    (finding,) = SaturatedActivation()(story(_share(0.8), function="tanh"))
    assert finding.severity == "note"


def test_half_as_many_looks_are_enough_if_they_span_64_steps() -> None:
    steps = [*STEPS[:6], 100, 132, 165]
    for after, found in ((99, 1), (100, 0)):
        history = story(_share(0.8, after=after), function="tanh", steps=steps, loss=flat)
        assert len(SaturatedActivation()(history)) == found


def test_it_is_bad_if_the_loss_stands_still() -> None:
    (finding,) = SaturatedActivation()(story(_share(0.8), function="tanh", loss=flat))
    assert finding.severity == "bad"


@pytest.mark.parametrize(("share", "found"), [(0.5, 1), (0.499, 0)])
def test_the_threshold_decides(share: float, found: int) -> None:
    assert len(SaturatedActivation()(story(_share(share), function="tanh"))) == found


@pytest.mark.parametrize(("after", "found"), [(STEPS[-7], 1), (STEPS[-6], 0)])
def test_all_of_the_newest_records_must_agree(after: int, found: int) -> None:
    history = story(_share(0.8, after=after), function="tanh")
    assert len(SaturatedActivation()(history)) == found


def test_the_worst_place_comes_first() -> None:
    def change(step: int, values: Any) -> None:
        _share(0.6, layer=0)(step, values)
        _share(0.9, layer=3)(step, values)

    (finding,) = SaturatedActivation()(story(change, function="tanh"))
    assert finding.places == (call(3, "tanh"), call(0, "tanh"))


def _with_output(about: dict[str, Any], function: str) -> str:
    place = f"out/{function}#0"
    about["sites"][place] = {"function": function, "kind": function, "module": "out"}
    return place


def test_a_saturated_output_is_what_training_is_for() -> None:
    about = meta(function="sigmoid")
    place = _with_output(about, "sigmoid")

    def change(step: int, values: Any) -> None:
        values["activation/saturated_fraction"][place] = 0.99

    assert SaturatedActivation()(story(change, function="sigmoid", about=about)) == []
    assert place not in hidden_calls(story(change, function="sigmoid", about=about))


def test_the_output_of_a_generator_is_not_hidden() -> None:
    """P35: the discriminator's layers follow it, but are trained by another optimizer."""
    owner = {0: 0, 1: 0, 2: 0, 3: 1, 4: 1, 5: 1}.__getitem__
    several = story(
        function="tanh",
        about=meta(function="tanh", optimizers=["Adam", "Adam"], owner=owner),
    )
    assert hidden_calls(several) == [call(i, "tanh") for i in (0, 1, 3, 4)]
    assert hidden_calls(story(function="tanh")) == [call(i, "tanh") for i in range(LAYERS - 1)]


@pytest.mark.parametrize("function", ["softmax", "relu6", "hardtanh", "gelu"])
def test_functions_that_are_flat_by_design_do_not_count(function: str) -> None:
    history = story(_share(0.99, function=function), function=function)
    verdict = SaturatedActivation().check(history)
    assert verdict == NotObserved("saturated-activation", "no hidden sigmoid or tanh was seen")


def test_the_first_steps_are_too_early() -> None:
    history = story(_share(0.9), function="tanh", steps=STEPS[:5])
    verdict = SaturatedActivation().check(history)
    assert verdict == NotObserved("saturated-activation", "fewer than 6 steps were watched")
