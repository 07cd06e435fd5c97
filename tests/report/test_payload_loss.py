"""The loss, its band, what was not finite, spikes, learning rates, and validation beside it."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from lightning_diag.history import History
from lightning_diag.record import Record
from lightning_diag.report.payload.loss import MOST_POINTS, MOST_SPIKES, gap, loss_curves


def history_of(losses: list[float], every: int = 1) -> History:
    """Return a run with a record at every n-th step."""
    history = History()
    for last in range(every - 1, len(losses), every):
        history.append(Record(last, {}, {"loss/train": losses[last - every + 1 : last + 1]}))
    return history


def train(losses: list[float]) -> dict[str, Any]:
    shown: dict[str, Any] = loss_curves(history_of(losses))["train"]
    return shown


def test_a_short_curve_is_shown_step_by_step() -> None:
    shown = train([2.0, 1.5, 1.0])
    assert (shown["step"], shown["value"], shown["every"]) == ([0, 1, 2], [2, 1.5, 1], 1)
    assert shown["low"] == shown["high"] == shown["value"]


def test_a_long_curve_keeps_its_spike_and_its_mean() -> None:
    values = [1.0] * 100_000
    values[54_321] = 40.0
    shown = train(values)
    assert len(shown["step"]) <= MOST_POINTS
    assert max(shown["high"]) == 40
    at = shown["high"].index(40)
    assert abs(shown["step"][at] - 54_321) <= shown["every"]
    assert shown["value"][at] == pytest.approx(1 + 39 / shown["every"], rel=1e-5)
    assert set(shown["low"]) == {1}


def test_steps_whose_loss_is_not_finite_are_told_and_not_drawn() -> None:
    """P13: what is not finite is neither fatal nor hidden."""
    shown = train([1.0, 1.0, math.nan, math.inf, 1.0, -math.inf])
    assert shown["nonfinite"] == [[2, 3, 2], [5, 5, 1]]
    assert shown["value"] == [1, 1, None, None, 1, None]
    assert [value is None for value in shown["smooth"]] == [value is None for value in shown["low"]]


def test_a_loss_that_is_never_finite_is_shown_as_such() -> None:
    shown = train([math.nan] * 3)
    assert shown["nonfinite"] == [[0, 2, 3]]
    assert shown["value"] == shown["smooth"] == [None] * 3


def test_many_stretches_that_are_not_finite_are_joined_and_none_is_lost() -> None:
    losses = [math.nan if i % 3 == 0 else 1.0 for i in range(3001)]
    shown = train(losses)["nonfinite"]
    assert len(shown) <= MOST_SPIKES
    assert (shown[0][0], shown[-1][1]) == (0, 3000)
    assert sum(n for _, _, n in shown) == 1001


def test_the_smoothed_line_is_the_centred_average() -> None:
    rng = random.Random(2)
    values = [rng.uniform(1, 2) for _ in range(300)]
    shown = train(values)["smooth"]
    for i in (0, 150, 299):
        part = values[max(0, i - 6) : i + 7]
        assert shown[i] == pytest.approx(sum(part) / len(part), rel=1e-5)


def test_a_loss_over_many_decades_asks_for_a_logarithmic_axis() -> None:
    assert loss_curves(history_of([1e6, 1.0]))["log"]
    assert not loss_curves(history_of([2.3, 0.1]))["log"]
    assert not loss_curves(history_of([1e6, 1.0, -1.0]))["log"]


def test_spikes_are_the_largest_losses_since_the_last_record() -> None:
    losses = [1.0] * 20
    losses[13], losses[17], losses[18] = 9.0, 8.0, math.nan
    history = History()
    for last in (9, 19):
        values = {"loss/spike_count": {"": 3.0 if last == 19 else 0.0}}
        history.append(Record(last, values, {"loss/train": losses[last - 9 : last + 1]}))
    assert loss_curves(history)["spikes"] == [13, 17]


def test_learning_rates_are_shown_by_group() -> None:
    history = History()
    for step, rate in enumerate((0.1, 0.01, math.nan)):
        history.append(Record(step, {"lr/value": {"SGD/group0": rate, "head": 1.0}}))
    shown = loss_curves(history)["lr"]
    assert shown["SGD/group0"] == {"step": [0, 1, 2], "value": [0.1, 0.01, "nan"]}
    assert list(shown) == ["SGD/group0", "head"]


def test_validation_is_the_loss_that_the_run_named() -> None:
    history = history_of([1.0] * 10)
    history.note(4, {"validation/val_loss": {"": 1.5}, "validation/aux_loss": {"": 7.0}})
    assert loss_curves(history)["validation"] is None
    history.update_meta({"validation": {"loss": "val_loss"}})
    shown = loss_curves(history)["validation"]
    assert shown == {"name": "val_loss", "step": [4], "value": [1.5]}


def test_the_gap_compares_a_validation_with_the_training_since_the_last() -> None:
    """W11."""
    history = history_of([4.0, 2.0, math.nan, 1.0, 0.5, 0.5])
    for step, value in ((1, 3.5), (3, 2.5), (5, math.inf)):
        history.note(step, {"validation/val_loss": {"": value}})
    assert gap(history) == {
        "step": [1, 3, 5],
        "train": [3, 1, 0.5],
        "validation": [3.5, 2.5, "inf"],
    }


def test_without_validation_there_is_no_gap() -> None:
    assert gap(history_of([1.0])) is None
