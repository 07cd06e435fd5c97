"""`vanishing-gradient`."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.vanishing_gradient import VanishingGradient
from rules.stories import LAYERS, STEPS, flat, geometric, healthy_loss, meta, story, weight

NAMES = [weight(i) for i in range(LAYERS)]


def _profile(gradient: list[float], ratio: list[float]) -> Any:
    def change(step: int, values: Any) -> None:
        values["gradient/norm"] = dict(zip(NAMES, gradient, strict=True))
        values["update/ratio"] = dict(zip(NAMES, ratio, strict=True))

    return change


STARVED = geometric(1e-7, 20.0)
SLOW = geometric(1e-8, 10.0)
EVEN = [2e-3] * LAYERS


def test_a_deep_sigmoid_net_starves_its_early_layers() -> None:
    """W1: the first starved layer is named."""
    (finding,) = VanishingGradient()(story(_profile(STARVED, SLOW), loss=flat))
    assert finding.severity == "bad"
    assert finding.places == (weight(0), weight(1), weight(2))
    assert finding.evidence.value == pytest.approx(20.0**-5)
    assert finding.evidence.observations == 8
    assert (
        "`net.2.weight` and every layer before it are starved. The RMS gradient of "
        "`net.0.weight` is 3.12e-07 of that of `net.5.weight` (threshold 0.001)" in finding.message
    )


def test_if_later_layers_learn_all_the_same_it_is_suspect() -> None:
    (finding,) = VanishingGradient()(story(_profile(STARVED, SLOW)))
    assert finding.severity == "suspect"


@pytest.mark.parametrize(
    ("gradient", "ratio"),
    [
        ([1.01e-3, 1.0, 1.0, 1.0, 1.0, 1.0], [1e-6, *EVEN[1:]]),
        ([0.99e-3, 1.0, 1.0, 1.0, 1.0, 1.0], [2.01e-5, *EVEN[1:]]),
    ],
)
def test_just_above_either_threshold_nothing_is_said(
    gradient: list[float], ratio: list[float]
) -> None:
    assert VanishingGradient()(story(_profile(gradient, ratio))) == []


@pytest.mark.parametrize(
    ("first", "ratio", "loss", "found"),
    [
        (4.9e-3, 1.9e-5, flat, 1),
        (5.1e-3, 1.9e-5, flat, 0),
        (4.9e-3, 2.1e-5, flat, 0),
        (4.9e-3, 1.9e-5, healthy_loss, 0),
    ],
)
def test_less_is_enough_while_the_loss_stands_still(
    first: float, ratio: float, loss: Any, found: int
) -> None:
    """Ten tanh layers with PyTorch's own weights: a factor of 0.58 a layer."""
    profile = _profile([first, *[1.0] * 5], [ratio, *EVEN[1:]])
    findings = VanishingGradient()(story(profile, loss=loss))
    assert [finding.severity for finding in findings] == ["suspect"] * found


def test_a_short_standstill_is_given_time() -> None:
    steps = [step for step in STEPS if step < 100]
    profile = _profile([4.9e-3, *[1.0] * 5], [1.9e-5, *EVEN[1:]])
    assert VanishingGradient()(story(profile, loss=flat, steps=steps)) == []


def test_just_below_both_thresholds_it_is_found() -> None:
    gradient = [0.99e-3, 1.0, 1.0, 1.0, 1.0, 1.0]
    history = story(_profile(gradient, [1.99e-5, *EVEN[1:]]), loss=flat)
    (finding,) = VanishingGradient()(history)
    assert finding.places == (weight(0),)


def test_adam_that_moves_all_layers_and_learns_is_healthy() -> None:
    assert VanishingGradient()(story(_profile(STARVED, EVEN), loss=healthy_loss)) == []


def test_adam_that_follows_rounding_errors_and_stands_still_is_suspect() -> None:
    history = story(_profile(STARVED, EVEN), loss=flat)
    (finding,) = VanishingGradient()(history)
    assert finding.severity == "suspect"
    assert "follows little but rounding errors" in finding.message


def _plateau(level: float, until: int = 400) -> Any:
    """Return a loss that falls from a bad first guess to chance, and stands there for a while."""

    def loss(step: int) -> float:
        best = level if step < until else healthy_loss(step - until) * level / healthy_loss(0)
        return best + 0.4 * 0.7**step

    return loss


FADING = [3e-4, 1.5e-3, 7e-3, 3e-2, 0.14, 1.0]
FAST = [1e-2] * LAYERS


@pytest.mark.parametrize(
    ("gradient", "ratio", "steps", "loss", "found"),
    [
        (FADING, FAST, 60, _plateau(2.3), 1),
        (FADING, FAST, 46, _plateau(2.3), 0),
        ([1.1e-3, *FADING[1:]], FAST, 60, _plateau(2.3), 0),
        ([3e-4, 7e-3, 1.5e-3, *FADING[3:]], FAST, 60, _plateau(2.3), 0),
        ([3e-4, *[0.2] * 2, 0.4, 0.6, 1.0], FAST, 60, _plateau(2.3), 0),
        ([3e-4, 0.2, 0.3, 0.4, 0.6, 1.0], FAST, 60, _plateau(2.3), 0),
        (FADING, [4e-3] * LAYERS, 60, _plateau(2.3), 0),
        (FADING, FAST, 60, healthy_loss, 0),
        (FADING, FAST, 140, _plateau(2.3, until=60), 0),
    ],
    ids=[
        "found", "too early", "not small enough", "not at each layer", "two layers alike",
        "one layer alone", "weights hardly move", "learns", "learns in the end",
    ],
)  # fmt: skip
def test_a_plateau_of_adam_is_told_soon_if_gradients_shrink_at_each_layer(
    gradient: list[float], ratio: list[float], steps: int, loss: Any, found: int
) -> None:
    """W1: five or six sigmoid layers, which Adam gets going after about a hundred steps."""
    watched = [step for step in STEPS if step < steps]
    findings = VanishingGradient()(story(_profile(gradient, ratio), loss=loss, steps=watched))
    assert [finding.severity for finding in findings] == ["suspect"] * found
    if found:
        assert "moves by 0.01 of its size a step, and the loss stands still" in findings[0].message


def test_a_plateau_of_adam_is_given_time() -> None:
    steps = [step for step in STEPS if step < 100]
    assert VanishingGradient()(story(_profile(STARVED, EVEN), loss=flat, steps=steps)) == []


def test_a_starved_layer_between_fed_ones_is_not_vanishing() -> None:
    """Blocks behind a skip connection, or with a gain that starts at zero."""
    gradient, ratio = [1.0, 1e-6, 1.0, 1e-6, 1.0, 1.0], [1e-3, 1e-9, 1e-3, 1e-9, 1e-3, 1e-3]
    assert VanishingGradient()(story(_profile(gradient, ratio), loss=flat)) == []


def test_frozen_layers_do_not_count() -> None:
    starved, slow = [*STARVED[:3], *[1.0] * 3], [*SLOW[:3], *EVEN[3:]]
    history = story(_profile(starved, slow), loss=flat, about=meta(frozen=[0, 1, 2]))
    assert VanishingGradient()(history) == []


def test_an_exact_zero_is_left_to_missing_gradient() -> None:
    gradient = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    assert VanishingGradient()(story(_profile(gradient, gradient), loss=flat)) == []


def test_networks_of_two_optimizers_are_judged_apart() -> None:
    """P35: a discriminator's gradients say nothing of a generator's."""
    about = meta(optimizers=["Adam", "Adam"], owner=lambda i: i // 3)
    gradient = [1e-6, 1e-6, 1e-6, 1.0, 1.0, 1.0]
    assert VanishingGradient()(story(_profile(gradient, SLOW), loss=flat, about=about)) == []


def test_depth_is_the_order_of_the_forward_pass() -> None:
    """A head that was registered first is still the last layer."""
    about = meta()
    about["parameters"] = dict(reversed(about["parameters"].items()))
    (finding,) = VanishingGradient()(story(_profile(STARVED, SLOW), loss=flat, about=about))
    assert finding.places[0] == weight(0)


def test_sparse_gradients_are_left_out() -> None:
    """An embedding's gradient is almost all zeros; its norm says little."""

    def change(step: int, values: Any) -> None:
        _profile([1e-7, 1.0, 1.0, 1.0, 1.0, 1.0], [1e-9, *EVEN[1:]])(step, values)
        values["gradient/zero_fraction"][weight(0)] = 0.99

    assert VanishingGradient()(story(change, loss=flat)) == []


def test_two_layers_have_no_depth() -> None:
    verdict = VanishingGradient().check(story(layers=2))
    assert verdict == NotObserved(
        "vanishing-gradient", "no optimizer has three linear or convolution layers"
    )


def test_the_first_steps_are_too_early() -> None:
    verdict = VanishingGradient().check(story(_profile(STARVED, SLOW), steps=STEPS[:15]))
    assert verdict == NotObserved("vanishing-gradient", "fewer than 16 steps were watched")


def _loop(gain: float, *, calls: int = 12, gate: str = "tanh", begins: bool = True) -> Any:
    """Return a loop over two layers, of which one is given the state."""
    about = meta(2)
    sites: dict[str, Any] = {}
    for i in range(calls):
        sites[f"net.0/linear#{i}"] = {"function": "linear", "kind": "layer", "module": "net.0"}
        sites[f"net.1/linear#{i}"] = {"function": "linear", "kind": "layer", "module": "net.1"}
        sites[f"net.act/{gate}#{i}"] = {"function": gate, "kind": gate, "module": "net.act"}
    about["sites"] = sites

    def change(step: int, values: Any) -> None:
        gains = {f"net.0/linear#{i}": 20.0 for i in range(calls)}
        gains |= {f"net.1/linear#{i}": gain for i in range(int(begins), calls)}
        values["activation/variance_gain"] = gains

    return change, about


@pytest.mark.parametrize(
    ("gain", "options", "loss", "found"),
    [
        (0.25, {}, flat, 1),  # half of a state eleven times: 0.0005
        (0.30, {}, flat, 0),
        (0.25, {}, healthy_loss, 0),
        (0.01, {"calls": 7}, flat, 0),
        (0.01, {"gate": "sigmoid"}, flat, 0),
        (0.01, {"begins": False}, flat, 0),
    ],
    ids=["forgets", "keeps", "learns", "short", "gated", "used for parts of the input"],
)
def test_a_loop_that_forgets_its_first_step_is_found_if_the_loss_stands_still(
    gain: float, options: Any, loss: Any, found: int
) -> None:
    """W1: what a plain recurrent network forgets, its gradients do not reach."""
    change, about = _loop(gain, **options)
    findings = VanishingGradient()(story(change, layers=2, loss=loss, about=about))
    assert [finding.severity for finding in findings] == ["suspect"] * found
    if found:
        assert findings[0].places == (weight(1),)
        assert (
            "`net.1` is called 12 times in a row, which leaves 0.000488 of" in findings[0].message
        )


def _cells(norm: float, *, calls: int = 20, alike: bool = True, pace: float = 2e-3) -> Any:
    """Return a loop over a cell of 32 units, and a layer that answers."""
    about = meta(2)
    cell = {"layer": "net.0", "trainable": True, "optimizers": [0]}
    del about["parameters"][weight(0)]
    about["parameters"] |= {"net.0.weight_hh": {**cell, "shape": [32, 32]}}
    about["sites"] = {
        f"net.0/rnn_tanh_cell#{i}": {
            "function": "rnn_tanh_cell", "kind": "cell", "module": "net.0"
        }
        for i in range(calls)
    } | {"net.1/linear#0": {"function": "linear", "kind": "layer", "module": "net.1"}}  # fmt: skip
    about["losses"] = {"loss#0": {"function": "cross_entropy", "classes": 4, "activation": ""}}

    def change(step: int, values: Any) -> None:
        values["update/ratio"] = dict.fromkeys(values["update/ratio"], pace)
        values["update/weight_norm"] = {"net.0.weight_hh": norm, weight(1): 5.0}
        values["output/sample_spread"] = {"loss#0": 0.01 if alike else 0.5}
        values["output/std"] = {"loss#0": 0.1}
        values["class/majority_share"] = {"loss#0": 0.3}

    return change, about


@pytest.mark.parametrize(
    ("norm", "options", "loss", "found"),
    [
        (0.69 * 32**0.5, {}, flat, 1),  # 0.69 nineteen times: 0.0009
        (0.70 * 32**0.5, {}, flat, 0),
        (0.69 * 32**0.5, {"calls": 19}, flat, 0),
        (0.69 * 32**0.5, {"alike": False}, flat, 0),
        (0.69 * 32**0.5, {"pace": 6e-4}, flat, 0),
        (0.69 * 32**0.5, {}, healthy_loss, 0),
    ],
    ids=["forgets", "keeps", "short", "answers differ", "weights hardly move", "learns"],
)
def test_cells_that_forget_are_found_if_all_samples_get_the_same_answer(
    norm: float, options: Any, loss: Any, found: int
) -> None:
    """W1: weights of 0.58 of an orthogonal matrix, as PyTorch draws them."""
    change, about = _cells(norm, **options)
    findings = VanishingGradient()(story(change, layers=2, loss=loss, about=about))
    assert [finding.severity for finding in findings] == ["suspect"] * found
    assert [finding.places for finding in findings] == [("net.0.weight_hh",)] * found
