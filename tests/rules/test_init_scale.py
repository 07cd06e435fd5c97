"""`init-scale`."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_diag.rules import init_scale
from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.init_scale import InitScale
from rules.setup_stories import gains
from rules.stories import LAYERS, STEPS, flat, meta, story, weight

LAST = LAYERS - 1


def test_one_layer_that_is_far_too_large_is_found() -> None:
    """C6: the last from N(100, 10), the others as they should be."""
    (finding,) = InitScale()(story(gains({LAST: 30.0})))
    assert finding.severity == "suspect"
    assert finding.places == (weight(LAST),)
    assert finding.message == (
        "The initial weights are too large: in `net.5.weight` their root mean square times the "
        "root of the fan-in is 42.4 (Xavier: 1, He: 1.4), and its output is 42.4 times its input."
    )


def test_it_is_bad_if_the_loss_stands_still() -> None:
    (finding,) = InitScale()(story(gains({LAST: 30.0}), loss=flat))
    assert finding.severity == "bad"
    (finding,) = InitScale()(story(gains({LAST: 30.0}), loss=flat, steps=STEPS[:6]))
    assert finding.severity == "suspect"


def test_all_layers_too_small_are_found_with_what_is_left_of_the_signal() -> None:
    """C6, W8."""
    (finding,) = InitScale()(story(gains(dict.fromkeys(range(LAYERS), 0.1))))
    assert len(finding.places) == LAYERS
    assert "too small" in finding.message
    assert "0.01 % of the first activation's spread is left at the last." in finding.message


def test_weights_of_a_mean_far_from_zero_are_large() -> None:
    """C6: the deviation alone says little of N(100, 10)."""

    def change(step: int, values: Any) -> None:
        gains()(step, values)
        if step == 0:
            values["weight/mean"][weight(LAST)] = 100.0
            values["activation/variance_gain"]["net.5/linear#0"] = 1e5

    (finding,) = InitScale()(story(change))
    assert finding.places == (weight(LAST),)


@pytest.mark.parametrize(("scale", "found"), [(2.9, 1), (2.8, 0)])
def test_the_threshold_decides(scale: float, found: int) -> None:
    assert len(InitScale()(story(gains({LAST: scale})))) == found


@pytest.mark.parametrize(("share", "found"), [(0.2, 1), (0.5, 0)])
def test_small_layers_count_by_how_much_of_the_signal_is_left(share: float, found: int) -> None:
    assert len(InitScale()(story(gains(dict.fromkeys(range(LAYERS), share))))) == found


@pytest.mark.parametrize("scale", [30.0, 0.01])
def test_what_a_norm_makes_up_for_is_healthy(scale: float) -> None:
    """C6: batch and layer norm forgive any scale; transformers begin at 0.02."""
    change = gains(dict.fromkeys(range(LAST), scale), felt=False)
    assert InitScale()(story(change)) == []


def test_large_weights_whose_output_is_not_large_are_healthy() -> None:
    """Inputs that are mostly zero, one-hot for example."""

    def change(step: int, values: Any) -> None:
        gains({0: 30.0})(step, values)
        if step == 0:
            values["activation/variance_gain"]["net.0/linear#0"] = 1.0

    assert InitScale()(story(change)) == []


@pytest.mark.parametrize("scale", [0.01, 0.0])
def test_a_small_head_is_healthy(scale: float) -> None:
    """C6: zero or nearly so on purpose."""
    assert InitScale()(story(gains({LAST: scale}))) == []


def test_a_saturated_tanh_shows_that_the_layer_before_it_is_too_large() -> None:
    (finding,) = InitScale()(
        story(gains(dict.fromkeys(range(LAST), 12.0), function="tanh"), function="tanh")
    )
    assert len(finding.places) == LAST


def test_a_resumed_run_has_no_initial_weights() -> None:
    verdict = InitScale().check(
        story(gains({LAST: 30.0}), about=meta(), steps=[s + 100 for s in STEPS])
    )
    assert isinstance(verdict, NotObserved)

    def moved(step: int, values: Any) -> None:
        gains({LAST: 30.0})(step - 100, values)

    verdict = InitScale().check(story(moved, steps=[s + 100 for s in STEPS]))
    assert verdict == NotObserved("init-scale", "the first step was not watched")


def test_the_first_step_is_gone_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not change, and a rule is asked hundreds of times."""
    layers, asked = init_scale._layers, []

    def counted(history: Any, values: Any) -> Any:
        asked.append(len(history))
        return layers(history, values)

    monkeypatch.setattr(init_scale, "_layers", counted)
    history = story(gains({LAST: 30.0}))
    first = InitScale()(history)
    assert InitScale()(history) == first
    assert len(asked) == 1
    assert InitScale(large=50.0)(history) == []
