"""`symmetric-init`."""

from __future__ import annotations

import pytest

from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.symmetric_init import SymmetricInit, hidden_weights
from rules.setup_stories import alike
from rules.stories import LAYERS, STEPS, flat, meta, story, weight

LAST = weight(LAYERS - 1)


def test_units_that_stay_equal_are_found() -> None:
    """C5."""
    (finding,) = SymmetricInit()(story(alike({weight(2): 1.0}, {weight(2): 1.0}), loss=flat))
    assert finding.severity == "bad"
    assert finding.places == (weight(2),)
    assert finding.message == (
        "In `net.2.weight` 100% of the units have the weights of another unit and get its "
        "gradients too (threshold 50%, seen at 12 watched steps up to 354), so they stay equal "
        "(1 of 5 hidden layers)."
    )


@pytest.mark.parametrize(("share", "found"), [(0.5, 1), (0.49, 0)])
def test_the_threshold_decides(share: float, found: int) -> None:
    for weights, gradients in ((share, 1.0), (1.0, share)):
        change = alike({weight(1): weights}, {weight(1): gradients})
        assert len(SymmetricInit()(story(change))) == found


def test_equal_weights_with_gradients_of_their_own_are_healthy() -> None:
    """C5: adapters, residual branches and heads begin at zero."""
    assert SymmetricInit()(story(alike({weight(1): 1.0}))) == []


def test_equal_gradients_of_unequal_weights_are_healthy() -> None:
    """C5: behind a head that begins at zero every gradient is zero at first."""
    assert SymmetricInit()(story(alike(gradients={weight(1): 1.0}))) == []


def test_the_last_layer_does_not_count() -> None:
    """C5: its units are told apart by their targets."""
    assert SymmetricInit()(story(alike({LAST: 1.0}, {LAST: 1.0}))) == []
    assert LAST not in hidden_weights(story())


def test_the_last_layer_of_each_player_does_not_count() -> None:
    about = meta(optimizers=["Adam", "Adam"], owner=lambda i: i // 3)
    change = alike({weight(2): 1.0}, {weight(2): 1.0})
    assert SymmetricInit()(story(change, about=about)) == []


def test_recurrent_weights_count_though_their_calls_are_not_seen() -> None:
    about = meta()
    name = "rnn.weight_hh_l0"
    about["parameters"][name] = {
        "shape": [32, 32],
        "layer": "rnn",
        "trainable": True,
        "optimizers": [0],
    }
    (finding,) = SymmetricInit()(story(alike({name: 1.0}, {name: 1.0}), about=about))
    assert finding.places == (name,)


@pytest.mark.parametrize(("steps", "judged"), [(3, False), (4, True)])
def test_the_first_steps_are_too_early(steps: int, judged: bool) -> None:
    """Gradients may take some steps to reach what lies behind two zeros."""
    change = alike({weight(2): 1.0}, {weight(2): 1.0})
    verdict = SymmetricInit().check(story(change, steps=STEPS[:steps]))
    assert isinstance(verdict, list) is judged
    if not judged:
        assert verdict == NotObserved("symmetric-init", "fewer than 4 steps were watched")


def test_units_that_went_apart_are_no_longer_spoken_of() -> None:
    """Dropout tells equal units apart."""

    def change(step: int, values: dict[str, dict[str, float]]) -> None:
        share = 1.0 if step < 40 else 0.0
        alike({weight(2): share}, {weight(2): share})(step, values)

    assert SymmetricInit()(story(change)) == []
    assert SymmetricInit()(story(change, steps=STEPS[:12])) != []
