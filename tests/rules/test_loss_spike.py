"""`loss-spike`."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_diag.finding import Finding
from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.loss_spike import LossSpike
from rules.fit_stories import Curve, learning, noisy, spiked
from rules.stories import lines, meta, run_of, story


def _found(loss: Curve, change: Any = None) -> Finding | None:
    findings = LossSpike()(story(change, loss=loss))
    return findings[0] if findings else None


def _odd(height: float, step: int = 300) -> Curve:
    base = noisy(learning, 0.1)
    return lambda s: height if s == step else base(s)


def test_a_leap_that_lasts_is_suspect() -> None:
    """P47, and the idea of persistent against transient spikes."""
    finding = _found(spiked)
    assert finding is not None
    assert finding.severity == "suspect"
    assert finding.steps[0] == 300
    assert "at step 300" in finding.message
    assert "stayed up for" in finding.message


def test_one_odd_batch_is_a_note_if_no_untrained_model_has_such_a_loss() -> None:
    """W12: more than three times the first loss."""
    finding = _found(_odd(8.0))
    assert finding is not None
    assert (finding.severity, finding.steps) == ("note", (300, 301))
    assert "was down again after 1 steps" in finding.message


@pytest.mark.parametrize("height", [0.05, 0.5, 2.0, 6.0])
def test_one_hard_batch_is_nothing(height: float) -> None:
    assert _found(_odd(height)) is None


def test_a_leap_of_next_to_nothing_is_nothing() -> None:
    """A loss of 0.001 that goes to 0.02 for a while has lost 1 % of what it won."""

    def loss(step: int) -> float:
        return 2.3 * math.exp(-step / 30) + 1e-3 + (0.02 if 300 <= step < 330 else 0.0)

    assert _found(loss) is None


@pytest.mark.parametrize("seed", range(5))
def test_the_noise_of_single_samples_is_no_spike(seed: int) -> None:
    """W10: noise with a long tail, at every step and at every level."""
    assert _found(noisy(learning, 0.9, skew=True, seed=seed)) is None
    assert _found(noisy(lambda step: 1.0, 1.0, skew=True, seed=seed)) is None


def test_spikes_are_counted() -> None:
    def loss(step: int) -> float:
        return learning(step) + (40.0 if step in {150, 220, 301} else 0.0) + 0.01 * (step % 3)

    finding = _found(loss)
    assert finding is not None
    assert "one of 3 since step 150" in finding.message
    assert finding.evidence.observations == 3


def test_a_restart_of_the_learning_rate_is_no_spike() -> None:
    """L4."""

    def change(step: int, values: Any) -> None:
        values["lr/value"] = {"SGD/group0": 0.1 if step < 150 or step >= 300 else 0.001}

    assert _found(spiked, change) is None


def test_a_spike_is_told_only_once_it_is_known_whether_it_lasts() -> None:
    records = lines(loss=spiked)
    steps = [
        record.step
        for n, record in enumerate(records, 1)
        if record.step < 330 and LossSpike()(run_of(records[:n], meta()))
    ]
    assert 308 <= steps[0] <= 312


@pytest.mark.parametrize(("count", "found"), [(1.0, True), (0.0, False)])
def test_what_the_monitor_did_not_count_is_not_searched(count: float, found: bool) -> None:
    """The monitor's band is narrower than that of the rule."""

    def change(step: int, values: Any) -> None:
        values["loss/spike_count"] = {"": count if 300 <= step < 303 else 0.0}

    history = run_of(lines(change, loss=spiked)[:-25], meta())
    assert bool(LossSpike()(history)) is found


def test_a_spike_passes() -> None:
    """It is withdrawn once it lies behind."""
    base = noisy(learning, 0.1)
    history = story(
        loss=lambda s: 9.0 if s == 100 else base(s), steps=[0, 1, 2, 3, *range(10, 1600, 10)]
    )
    assert LossSpike()(history) == []


def test_a_short_run_is_not_judged() -> None:
    assert isinstance(LossSpike().check(story(steps=range(100))), NotObserved)


@pytest.mark.parametrize("settings", [{"factor": 0.5}, {"harm": 2}, {"odd": 0}, {"window": 64}])
def test_thresholds_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        LossSpike(**settings)
