"""How often a run is judged when every step is watched."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable
from itertools import pairwise

import pytest

from lightning_diag.record import Record
from lightning_diag.rules.pace import Pace


def record(step: int, loss: float = 1.0, **values: float) -> Record:
    """Return a record with a loss and, by name, numbers of the whole model."""
    numbers = {name.replace("_", "/", 1): {"": value} for name, value in values.items()}
    return Record(step, numbers, {"loss/train": [loss]})


def judged(steps: Iterable[int], pace: Pace | None = None) -> list[int]:
    """Return the steps whose record is judged."""
    pace = pace or Pace()
    return [step for step in steps if pace.due(record(step))]


def test_each_of_the_first_hundred_steps_is_judged() -> None:
    assert judged(range(100)) == list(range(100))


def test_later_judgements_are_two_percent_of_the_steps_apart() -> None:
    steps = judged(range(20_000))[100:]
    gaps = [(late - early) / early for early, late in pairwise(steps)]
    assert 0.02 <= min(gaps) < max(gaps) < 0.04
    assert len(steps) < 300


@pytest.mark.parametrize("spacing", [50, 1000])
def test_records_that_are_far_apart_are_all_judged(spacing: int) -> None:
    steps = range(0, 34 * spacing, spacing)
    assert judged(steps) == list(steps)


def test_no_record_waits_for_more_than_four_percent_whatever_the_spacing() -> None:
    rng = random.Random(1)
    steps = sorted(rng.sample(range(50_000), 5_000))
    done = set(judged(steps))
    last = steps[0]
    for step in steps:
        last = step if step in done else last
        assert step - last <= max(1, step // 25)


@pytest.mark.parametrize(
    "bad",
    [
        record(1001, math.nan),
        record(1001, gradient_total_norm=math.inf),
        record(1001, activation_nonfinite_count=3.0),
    ],
)
def test_the_first_number_that_is_not_finite_is_judged_at_once_and_the_next_is_not(
    bad: Record,
) -> None:
    pace = Pace()
    assert pace.due(record(1000))
    assert not pace.due(record(1000))
    assert pace.due(bad)
    assert not pace.due(Record(1002, bad.values, bad.dense))


@pytest.mark.parametrize("stop", [3, 99, 100, 1234])
def test_a_run_that_goes_on_is_judged_where_an_unbroken_one_is(stop: int) -> None:
    """P25."""
    first, second = Pace(), Pace()
    begun = judged(range(stop), first)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert begun + judged(range(stop, 3000), second) == judged(range(3000))


def test_a_run_that_begins_anew_is_judged_anew() -> None:
    pace = Pace()
    judged(range(500), pace)
    assert judged(range(5), pace) == [0, 1, 2, 3, 4]
