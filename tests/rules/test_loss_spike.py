"""`loss-spike`."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_diag.finding import Finding
from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.loss_spike import LossSpike
from rules.fit_stories import Curve, classes, learning, noisy, spiked
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
    assert "was down again after a step" in finding.message


@pytest.mark.parametrize("height", [0.05, 0.5, 2.0, 6.0])
def test_one_hard_batch_is_nothing(height: float) -> None:
    assert _found(_odd(height)) is None


def _known(samples: int, **more: Any) -> dict[str, Any]:
    loss = {**classes(10)["losses"]["cross_entropy#0"], "input_shape": [samples, 10]}
    return {**meta(), "losses": {"cross_entropy#0": loss}, "train_samples": 6400, **more}


@pytest.mark.parametrize(
    ("height", "samples", "found"),
    [(3.0, 32, True), (2.0, 32, False), (3.0, 8, False), (8.0, 8, True)],
)
def test_many_samples_that_lose_more_than_by_knowing_nothing_are_an_odd_batch(
    height: float, samples: int, found: bool
) -> None:
    """The logarithm of ten classes is 2.3; one hard sample of eight may cost as much."""
    history = story(loss=_odd(height), about=_known(samples))
    assert [f.severity for f in LossSpike()(history)] == ["note"] * found


def test_what_is_left_over_at_the_end_of_an_epoch_is_few_samples() -> None:
    for step, found in ((299, False), (298, True)):
        about = _known(32, train_samples=3199)
        assert bool(LossSpike()(story(loss=_odd(3.0, step), about=about))) is found


def test_a_leap_from_which_the_loss_is_lost_lasts() -> None:
    """P47: within three steps, and whatever comes after it."""
    base = noisy(learning, 0.1)
    end = {300: 50.0, 301: 1e6, 302: 1e20}

    def loss(step: int) -> float:
        return base(step) if step < 300 else end.get(step, math.nan)

    finding = _found(loss)
    assert finding is not None
    assert (finding.severity, finding.steps[0]) == ("suspect", 300)
    assert "to 1e+20 at step 300" in finding.message
    assert "is not finite since" in finding.message


def test_a_batch_that_left_the_moments_wrong_lasts() -> None:
    """The batches right after it do well, and then the loss is up again."""
    base = noisy(learning, 0.1)

    def loss(step: int) -> float:
        return 9.0 if step == 300 else base(step) + (0.8 if 306 <= step < 340 else 0.0)

    finding = _found(loss)
    assert finding is not None
    assert finding.severity == "suspect"
    assert "is up again from step 309 to 324" in finding.message


@pytest.mark.parametrize(("times", "severity"), [(2.0, "suspect"), (1.2, "note")])
def test_an_odd_batch_that_set_training_back_is_suspect(times: float, severity: str) -> None:
    base = noisy(learning, 0.1)

    def loss(step: int) -> float:
        return 9.0 if step == 300 else base(step) * (times if 300 < step < 340 else 1.0)

    finding = _found(loss)
    assert finding is not None
    assert finding.severity == severity
    assert ("times as high as before" in finding.message) is (severity == "suspect")


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
