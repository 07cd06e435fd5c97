"""`noisy-gradient`."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.noisy_gradient import NoisyGradient
from rules.signal_stories import noisy
from rules.stories import STEPS, flat, healthy_loss, meta, story


def _stalled(level: float) -> Any:
    return lambda step: 2.3 if step == 0 else level + 0.02 * math.sin(3 * step)


def _found(history: Any) -> int:
    return len(NoisyGradient()(history))


def test_a_run_that_stalls_in_the_noise_of_its_batches_is_a_note() -> None:
    """W15, W10."""
    (finding,) = NoisyGradient()(story(noisy(), loss=_stalled(1.5)))
    assert finding.severity == "note"
    assert finding.places == ()
    assert "(noise scale: at least 250 samples). The loss scatters by 50%" in finding.message
    assert abs(finding.evidence.value - 0.01) < 0.02


def test_it_is_suspect_if_nothing_was_won() -> None:
    (finding,) = NoisyGradient()(story(noisy(), loss=flat))
    assert finding.severity == "suspect"


@pytest.mark.parametrize(
    ("change", "loss"),
    [
        (noisy(0.12), flat),
        (noisy(scatter=0.19), flat),
        (noisy(ratio=2.9e-3), flat),
        (noisy(), healthy_loss),
        (noisy(), lambda step: 2.3 - 0.002 * step),
        (noisy(), lambda step: 2.3 if step == 0 else 0.1 if step < 250 else 2.1),
    ],
    ids=["aligned", "calm loss", "small steps", "learns", "still falls", "has leapt up"],
)
def test_noise_without_harm_is_healthy(change: Any, loss: Any) -> None:
    """Small batches learn well, and near a minimum nothing but noise is left."""
    assert _found(story(change, loss=loss)) == 0


def _wild(small: float, large: float, *, every: int = 8, falls: float = 0.0) -> Any:
    """Return losses most of which are small, and some large."""
    return lambda step: 2.3 if step == 0 else (small if step % every else large - falls * step)


@pytest.mark.parametrize(
    ("scatter", "loss", "found"),
    [
        (1.5, _wild(0.05, 2.0), "note"),
        (1.5, _wild(0.5, 9.0), "suspect"),
        (0.9, _wild(0.05, 2.0), ""),
        (1.5, _wild(0.01, 0.5), ""),
        (1.5, _wild(0.05, 4.0, falls=0.01), ""),
    ],
    ids=["most are learned", "none are", "calm", "near zero", "the mean falls"],
)
def test_losses_some_of_which_stay_huge_are_told_by_their_mean(
    scatter: float, loss: Any, found: str
) -> None:
    """W15: batches of one or two, each of which undoes what the others taught."""
    findings = NoisyGradient()(story(noisy(scatter=scatter), loss=loss))
    assert [finding.severity for finding in findings] == [found] * bool(found)


def test_the_loss_is_given_time() -> None:
    assert _found(story(noisy(), loss=flat, steps=[step for step in STEPS if step < 300])) == 0


def test_too_few_pairs_are_not_observed() -> None:
    def change(step: int, values: Any) -> None:
        if step in STEPS[-7:]:
            noisy()(step, values)

    verdict = NoisyGradient().check(story(change, loss=flat))
    assert verdict == NotObserved("noisy-gradient", "fewer than 8 pairs of gradients were compared")


def test_several_optimizers_are_not_observed() -> None:
    """P35."""
    about = meta(optimizers=["Adam", "Adam"])
    assert isinstance(NoisyGradient().check(story(noisy(), loss=flat, about=about)), NotObserved)
