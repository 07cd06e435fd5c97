"""How rules read a history, against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_diag.history import History, Series
from lightning_diag.record import Record
from lightning_diag.rules import default_rules
from lightning_diag.rules.depth import gradient_by_depth
from lightning_diag.rules.diagnosis import Diagnosis
from lightning_diag.rules.reading import (
    Loss,
    best_losses,
    centre,
    depth_profile,
    is_stuck,
    listing,
    read_loss,
    shown,
    travel,
    typical_ratio,
    weights,
)
from rules.stories import LAYERS, lines, meta, run_of, story, weight


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.001234, "0.00123"), (99.44, "99.4"), (1234.5, "1,230"), (2.3e9, "2.3e+09")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert shown(value) == text


def test_places_are_listed_and_counted() -> None:
    assert listing(["a"]) == "`a`"
    assert listing(["a", "b", "c"]) == "`a`, `b` and `c`"
    assert listing(["a", "b", "c", "d", "e"]) == "`a`, `b`, `c` and 2 more"


def test_a_median_is_infinite_when_most_is_not_a_number() -> None:
    assert centre([1.0, math.nan, 2.0]) == 2.0
    assert centre([math.nan, math.nan, 2.0]) == math.inf
    assert centre([]) == math.inf


def test_weights_are_trained_and_have_two_dimensions() -> None:
    history = story(about=meta(frozen=[0], outside=[weight(1)]))
    assert weights(history) == [weight(i) for i in range(2, LAYERS)]


def test_depth_follows_calls_and_falls_back_to_registration() -> None:
    about = meta(3)
    about["parameters"] = dict(reversed(about["parameters"].items()))
    assert depth_profile(story(layers=3, about=about)) == [[weight(i) for i in range(3)]]
    without = {**about, "sites": {}}
    assert depth_profile(story(layers=3, about=without)) == [[weight(i) for i in (2, 1, 0)]]


def test_a_profile_is_the_root_mean_square_of_each_gradient() -> None:
    def change(step: int, values: Any) -> None:
        values["gradient/norm"] = {weight(i): 32.0 * 100.0**i for i in range(LAYERS)}

    (profile,) = gradient_by_depth(story(change))
    assert profile.gradient == [100.0**i for i in range(LAYERS)]
    assert profile.records == 8


def test_typical_ratio_is_the_median_of_five_spread_weights() -> None:
    def change(step: int, values: Any) -> None:
        values["update/ratio"] = {weight(i): float(i) for i in range(15)}

    history = story(change, layers=15, steps=[0, 1])
    assert typical_ratio(history) == Series([0, 1], [6.0, 6.0])  # of weights 0, 3, 6, 9, 12


def test_a_typical_ratio_takes_what_each_step_has() -> None:
    """A layer that is frozen for a while, a weight that turned to NaN."""

    def change(step: int, values: Any) -> None:
        values["update/ratio"] = {weight(i): float(i) for i in range(5)}
        if step == 1:
            del values["update/ratio"][weight(4)], values["update/ratio"][weight(3)]
        if step == 2:
            values["update/ratio"] |= {weight(i): math.nan for i in range(3)}

    history = story(change, layers=5, steps=[0, 1, 2])
    assert typical_ratio(history) == Series([0, 1, 2], [2.0, 1.0, math.inf])


def test_travel_counts_the_steps_between_records_with_the_slower_one() -> None:
    assert travel(Series([0, 10, 20], [0.1, 0.2, 0.3]), least=0.1) == pytest.approx(3.0)
    assert travel(Series([0, 10, 20], [0.1, 0.2, 0.3]), least=0.15) == pytest.approx(2.0)
    assert travel(Series([0, 10, 20], [0.1, math.inf, math.inf]), least=0.1) == 1.0
    assert travel(Series([], []), least=0.1) == 0.0


def test_the_loss_is_read_from_its_first_value_and_its_newest_sixteen() -> None:
    history = story(loss=lambda step: 100.0 - step, steps=range(0, 41, 5))
    assert read_loss(history) == Loss(start=100.0, now=67.5, steps=40, from_start=True)
    assert best_losses(history) == [100.0 - step for step in range(16, 32)]
    resumed = story(loss=lambda step: 100.0 - step, steps=range(20, 41, 5))
    loss = read_loss(resumed)
    assert loss is not None
    assert (loss.start, loss.from_start) == (80.0, False)


def test_fifteen_losses_are_too_few() -> None:
    assert read_loss(story(steps=range(15))) is None
    assert read_loss(story(steps=range(16))) is not None
    assert read_loss(story(loss=None)) is None


def test_progress_needs_a_scale() -> None:
    assert Loss(2.0, 0.5, 100, from_start=True).progress == 0.75
    assert Loss(2.0, 4.0, 100, from_start=True).progress == -1.0
    assert math.isnan(Loss(-2.0, 0.5, 100, from_start=True).progress)
    assert math.isnan(Loss(math.inf, 0.5, 100, from_start=True).progress)


def test_a_loss_that_is_not_known_is_not_stuck() -> None:
    assert not is_stuck(story(loss=None), 0.5, 16)
    assert not is_stuck(story(loss=lambda step: -1.0), 0.5, 16)
    assert is_stuck(story(loss=lambda step: 1.0), 0.5, 16)
    several = meta(optimizers=["Adam", "Adam"])
    assert not is_stuck(story(loss=lambda step: 1.0, about=several), 0.5, 16)


class Counting(History):
    """Counts the numbers that are read."""

    read = 0

    def series(self, metric: str, place: str = "") -> Series:
        """See `History.series`."""
        series = super().series(metric, place)
        self.read += len(series.steps)
        return series

    def window(self, metric: str, n: int) -> list[tuple[int, dict[str, float]]]:
        """See `History.window`."""
        found = super().window(metric, n)
        self.read += sum(len(values) for _, values in found)
        return found


def _numbers_read(records: list[Record], about: Any) -> tuple[int, int]:
    """Return how many numbers are read by a first look at all records but one, and by the next."""
    history, diagnosis = Counting(), Diagnosis(default_rules())
    history.update_meta(about)
    for record in records[:-1]:
        history.append(record)
    diagnosis.update(history)
    first, history.read = history.read, 0
    history.append(records[-1])
    diagnosis.update(history)
    return first, history.read


def test_what_an_update_reads_hardly_grows_with_the_run() -> None:
    """P19: a long run must not slow down, and a large model only in proportion."""
    about = meta(60)
    records = lines(steps=range(0, 4000, 10), layers=60)
    (first_half, half), (first, whole) = (_numbers_read(records[:n], about) for n in (200, 400))
    # One number a record more: the total gradient norm.
    assert whole - half <= 250
    assert half < 60 * 60
    # The first look of a run that goes on from a checkpoint: each loss once, and little more.
    assert first - first_half <= 2000 + 2 * 250
    assert run_of(records, about).steps[-1] == 3990
