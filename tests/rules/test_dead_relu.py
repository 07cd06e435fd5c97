"""`dead-relu`."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.dead_relu import DeadRelu
from rules.stories import STEPS, call, flat, meta, story, weight

FULL = 21
"""At this step the window of 5,000 samples is full for the first time."""


def _dead(share: float, *, place: str = call(2), since: int = 0, samples: float = 5000.0) -> Any:
    """Units fall silent at `since`; the tracker counts them once its window has passed."""
    filling = STEPS.index(FULL)
    counted = STEPS[STEPS.index(since) + filling]

    def change(step: int, values: Any) -> None:
        if step < FULL:
            del values["dead_relu/fraction"]
            seen = samples * (STEPS.index(step) + 1) / (filling + 1)
            values["dead_relu/window_samples"] = dict.fromkeys([place, call(0)], seen)
        else:
            values["dead_relu/window_samples"] = dict.fromkeys([place, call(0)], samples)
            values["dead_relu/fraction"] = {call(0): 0.02, place: share if step >= counted else 0.0}
            values["dead_relu/since_step"] = {place: float(since)}

    return change


def test_dead_units_are_found_with_layer_and_since_when() -> None:
    """W5, P46."""
    (finding,) = DeadRelu()(story(_dead(0.3, since=9)))
    assert finding.severity == "note"  # the loss has halved all the same
    assert finding.places == (call(2),)
    assert finding.steps == (7, STEPS[-1])
    assert finding.evidence.value == 0.3
    assert finding.evidence.window == 5000
    assert finding.message == (
        "30% of the units of `net.2.act/relu#0` (threshold 25%) were silent for all of the last "
        "5,000 samples; 1 of 2 ReLU calls are affected. They fell silent between steps 7 and 9."
    )


@pytest.mark.parametrize(("last", "severity"), [(190, "note"), (210, "suspect")])
def test_a_third_of_a_call_is_suspect_once_the_loss_has_had_its_time(
    last: int, severity: str
) -> None:
    """One of thirty layers with a quarter of its units off, and twenty steps, is no alarm."""
    steps = [step for step in STEPS if step <= last]
    (finding,) = DeadRelu()(story(_dead(0.3), loss=flat, steps=steps))
    assert finding.severity == severity


@pytest.mark.parametrize(("looks", "found"), [(8, 1), (7, 0)])
def test_a_call_that_lets_nothing_through_need_not_wait_for_the_window(
    looks: int, found: int
) -> None:
    """W5: a layer that died late in a run."""
    last = STEPS[-looks:]

    def change(step: int, values: Any) -> None:
        values["activation/max"] = {call(2): 0.0 if step in last else 0.5, call(0): 0.5}

    history = story(change, loss=flat)
    assert len(DeadRelu()(history)) == found
    if found:
        (finding,) = DeadRelu()(history)
        assert finding.severity == "bad"
        assert finding.places == (call(2),)
        assert finding.steps == (last[0], last[-1])
        assert finding.message.startswith("Nothing came through `net.2.act/relu#0`, in each of")


def test_a_silent_time_step_of_a_loop_is_no_dead_layer() -> None:
    def change(step: int, values: Any) -> None:
        calls = [f"act/relu#{i}" for i in range(4)]
        values["dead_relu/window_samples"] = dict.fromkeys(calls, 5000.0)
        values["dead_relu/fraction"] = dict.fromkeys(calls, 0.0)
        values["activation/max"] = {**dict.fromkeys(calls, 0.5), calls[0]: 0.0}

    about = meta()
    about["sites"] = {}
    for i in range(4):
        about["sites"][f"cell/linear#{i}"] = {
            "function": "linear",
            "kind": "layer",
            "module": "cell",
        }
        about["sites"][f"act/relu#{i}"] = {"function": "relu", "kind": "relu", "module": "act"}
    assert DeadRelu()(story(change, about=about, loss=flat)) == []


@pytest.mark.parametrize(("share", "found"), [(0.25, 1), (0.2499, 0)])
def test_the_threshold_decides(share: float, found: int) -> None:
    assert len(DeadRelu()(story(_dead(share)))) == found


@pytest.mark.parametrize(
    ("share", "stands", "severity"),
    [(0.4, True, "bad"), (0.39, True, "suspect"), (0.9, False, "suspect")],
)
def test_bad_takes_many_dead_units_and_a_loss_that_does_not_fall(
    share: float, stands: bool, severity: str
) -> None:
    """Large language models that work have layers in which most units are dead."""
    history = story(_dead(share), loss=flat) if stands else story(_dead(share))
    (finding,) = DeadRelu()(history)
    assert finding.severity == severity


def test_a_large_update_just_before_is_named() -> None:
    """W5: a learning rate that is too large."""

    def change(step: int, values: Any) -> None:
        _dead(0.6, since=9)(step, values)
        if step == 7:
            values["update/ratio"] = dict.fromkeys(values["update/ratio"], 0.4)

    (finding,) = DeadRelu()(story(change))
    assert "The update of step 7 changed the typical weight by 0.4 of its size." in finding.message


def test_an_update_that_came_later_is_not_named() -> None:
    def change(step: int, values: Any) -> None:
        _dead(0.6, since=9)(step, values)
        if step == 11:
            values["update/ratio"] = dict.fromkeys(values["update/ratio"], 0.4)

    (finding,) = DeadRelu()(story(change))
    assert "The update" not in finding.message


def test_a_jump_of_the_gradient_just_before_is_named() -> None:
    def change(step: int, values: Any) -> None:
        _dead(0.6, since=9)(step, values)
        values["gradient/total_norm"] = {"": 40.0 if step == 7 else 2.0}

    (finding,) = DeadRelu()(story(change))
    assert "The gradient norm jumped from 2 to 40 at step 7." in finding.message


def test_a_risen_learning_rate_just_before_is_named() -> None:
    def change(step: int, values: Any) -> None:
        _dead(0.6, since=9)(step, values)
        values["lr/value"] = {"SGD/group0": 1.0 if step >= 7 else 0.1}

    (finding,) = DeadRelu()(story(change))
    assert "The learning rate of `SGD/group0` rose from 0.1 to 1." in finding.message


def test_units_that_were_silent_from_the_first_look_have_one_step() -> None:
    (finding,) = DeadRelu()(story(_dead(0.6)))
    assert finding.steps[0] == 0
    assert finding.message.endswith("They fell silent at step 0.")


def test_too_few_samples_are_not_observed() -> None:
    """P46: never a verdict from one batch."""
    verdict = DeadRelu().check(story(_dead(0.9, samples=999.0)))
    assert verdict == NotObserved(
        "dead-relu",
        "units must be silent for 1,000 samples or more to be called dead, and 999 were seen",
    )
    assert len(DeadRelu()(story(_dead(0.9, samples=1000.0)))) == 1


def test_a_small_training_set_is_enough() -> None:
    about = {**meta(), "train_samples": 300}
    assert len(DeadRelu()(story(_dead(0.9, samples=300.0), about=about))) == 1


def test_a_unit_that_fires_at_another_time_step_is_alive() -> None:
    """P18: one ReLU behind one layer, called again and again."""
    about = meta()
    for i in range(1, 4):
        layer = {"function": "linear", "kind": "layer", "module": "net.2"}
        relu = {"function": "relu", "kind": "relu", "module": "net.2.act"}
        about["sites"] |= {f"net.2/linear#{i}": layer, f"net.2.act/relu#{i}": relu}

    def change(step: int, values: Any) -> None:
        calls = [f"net.2.act/relu#{i}" for i in range(4)]
        values["dead_relu/fraction"] = dict(zip(calls, [0.6, 0.3, 0.0, 0.1], strict=True))
        values["dead_relu/window_samples"] = dict.fromkeys(calls, 5000.0)

    assert DeadRelu()(story(change, about=about)) == []


def test_one_module_behind_two_layers_is_two_places() -> None:
    """P18: a ReLU that a forward pass shares between its layers."""

    def change(step: int, values: Any) -> None:
        values["dead_relu/fraction"] = {"act/relu#0": 0.6, "act/relu#1": 0.0}
        values["dead_relu/window_samples"] = {"act/relu#0": 5000.0, "act/relu#1": 5000.0}

    about = meta()
    about["sites"] = {
        "a/linear#0": {"function": "linear", "kind": "layer", "module": "a"},
        "act/relu#0": {"function": "relu", "kind": "relu", "module": "act"},
        "b/linear#0": {"function": "linear", "kind": "layer", "module": "b"},
        "act/relu#1": {"function": "relu", "kind": "relu", "module": "act"},
    }
    (finding,) = DeadRelu()(story(change, about=about))
    assert finding.places == ("act/relu#0",)


def test_it_works_without_updates_gradients_and_rates() -> None:
    def change(step: int, values: Any) -> None:
        _dead(0.6, since=9)(step, values)
        for metric in ("update/ratio", "update/norm", "gradient/total_norm", "lr/value"):
            del values[metric]

    assert len(DeadRelu()(story(change))) == 1


def test_the_weight_is_known_to_the_story() -> None:
    assert weight(0) in story().places("update/ratio")
