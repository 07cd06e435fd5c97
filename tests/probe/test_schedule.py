"""Which steps are watched, and what that costs, by a simulated clock (P19, P38)."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_diag.probe.clock import HostClock
from lightning_diag.probe.schedule import Budget, StepTimes, Times, overhead
from lightning_diag.probe.timing import StepTimer

STEPS = 100_000
Seconds = Callable[[int], float]


@dataclass
class Simulated:
    """A run as the probe would watch it."""

    watched: list[int]
    """The steps that were watched."""
    cost: float
    """Seconds that watching took, in truth."""
    training: float
    """Seconds that all else took."""
    times: Times
    """What the probe believes."""


def simulate(budget: Budget, steps: int, plain: Seconds, cost: Seconds) -> Simulated:
    """Take steps in the order of the probe: numbers are joined before the step has ended."""
    now, following, step = 0.0, 0, 0
    run = Simulated([], 0.0, 0.0, Times())
    timer = StepTimer(HostClock(lambda: now))
    while step < steps:
        watching = step >= following
        if not watching and timer._left == 0:  # nobody looks at these: skip them in one go
            run.training += (min(following, steps) - step) * plain(step)
            step = following
            continue
        timer.begin_step(watched=watching)
        timer.begin_batch()
        length = plain(step)
        run.training += length
        now += length
        if watching:
            length = cost(step)
            run.cost += length
            now += length
            run.watched.append(step)
            run.times = timer.times()
            following = budget.next_step(step, len(run.watched), run.times)
            assert following > step
        timer.end_batch()
        timer.end_step()
        step += 1
    return run


def allowed(budget: Budget, run: Simulated, cost: float) -> float:
    """Return the seconds that watching may have taken.

    Before a watched and an unwatched step were measured, nothing is known: that takes three looks.
    """
    return max(budget.startup_seconds, 3 * cost) + budget.max_overhead * run.training * 1.05


# The budget -----------------------------------------------------------------------------------


@pytest.mark.parametrize("plain", [1e-3, 1e-2, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("cost", [0.0, 1e-3, 1e-2, 0.05, 0.1, 0.5, 1.0, 2.0, 10.0, 100.0])
@pytest.mark.parametrize("budget", [Budget(), Budget(30, 0.1, 0.0), Budget(100, 0.001, 1.0)])
def test_watching_costs_no_more_than_it_may(budget: Budget, plain: float, cost: float) -> None:
    run = simulate(budget, STEPS, lambda _: plain, lambda _: cost)
    assert run.cost <= allowed(budget, run, cost)


@pytest.mark.parametrize("plain", [1e-3, 0.1])
@pytest.mark.parametrize("ratio", [0.1, 1.0, 5.0, 20.0])
@pytest.mark.parametrize("spread", [0.1, 0.3])
def test_noisy_times_do_not_break_the_budget(plain: float, ratio: float, spread: float) -> None:
    draw = random.Random(1)

    def noise() -> float:
        return draw.lognormvariate(0.0, spread)

    budget = Budget()
    run = simulate(budget, STEPS, lambda _: plain * noise(), lambda _: plain * ratio * noise())
    # medians, which are measured, are below means, and of 15 are off by a third of the spread
    tolerance = math.exp(spread**2 / 2) * (1 + spread / 3)
    assert run.cost <= tolerance * allowed(budget, run, plain * ratio)


@pytest.mark.parametrize("plain", [1e-3, 0.1])
@pytest.mark.parametrize("ratio", [0.5, 2.0, 20.0])
@pytest.mark.parametrize("rise", [2.0, 5.0, 20.0])
def test_a_cost_that_rises_later_is_noticed(plain: float, ratio: float, rise: float) -> None:
    """As when layers are unfrozen; a median of 15 takes 8 looks to see it."""
    budget, cost = Budget(), plain * ratio
    risen = cost * rise
    run = simulate(budget, STEPS, lambda _: plain, lambda s: risen if s > STEPS // 2 else cost)
    assert run.cost <= allowed(budget, run, cost) + 8 * risen
    late = [step for step in run.watched if step > STEPS // 2]
    gaps = [after - before for before, after in pairwise(late[9:])]
    affordable = risen / (budget.max_overhead * plain)
    assert all(gap <= max(budget.every_n_steps, 4 * affordable) + 2 for gap in gaps)


def test_a_cost_that_has_risen_does_not_end_watching() -> None:
    budget = Budget()
    run = simulate(budget, STEPS, lambda _: 0.1, lambda s: 0.25 if s > 50_000 else 0.05)
    assert run.watched[-1] > 0.95 * STEPS


def test_one_slow_look_does_not_change_the_schedule() -> None:
    """The first one loads libraries."""
    budget = Budget()
    slow = simulate(budget, 5000, lambda _: 0.01, lambda s: 2.0 if s == 0 else 0.001)
    usual = simulate(budget, 5000, lambda _: 0.01, lambda _: 0.001)
    assert len(usual.watched) - 3 <= len(slow.watched) <= len(usual.watched)
    assert slow.watched[-1] - slow.watched[-2] == 50


def test_what_is_believed_of_the_cost_is_the_truth() -> None:
    run = simulate(Budget(), 10_000, lambda _: 0.02, lambda _: 0.005)
    assert run.times.plain == pytest.approx(0.02)
    assert run.times.cost == pytest.approx(0.005)
    share = overhead(10_000, len(run.watched), run.times)
    assert share == pytest.approx(run.cost / (run.cost + run.training), rel=1e-6)


# Which steps ----------------------------------------------------------------------------------


def test_first_steps_are_watched_one_after_the_other_then_ever_fewer() -> None:
    run = simulate(Budget(), 2000, lambda _: 0.01, lambda _: 1e-4)
    assert run.watched[:12] == [0, 1, 2, 3, 5, 7, 9, 11, 13, 15, 17, 19]
    gaps = [after - before for before, after in pairwise(run.watched)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == 50
    assert all(gap <= max(2, step / 16) for step, gap in zip(run.watched, gaps, strict=False))


@pytest.mark.parametrize("plain", [1e-3, 0.1, 0.9])
def test_a_run_of_five_steps_shows_data(plain: float) -> None:
    """P38: of steps 0 to 4 all but the last, which `Ending` knows."""
    run = simulate(Budget(), 5, lambda _: plain, lambda _: 0.1 * plain)
    assert run.watched == [0, 1, 2, 3]


@pytest.mark.parametrize("every", [1, 2])
def test_whoever_asks_for_more_gets_it(every: int) -> None:
    run = simulate(Budget(every), 300, lambda _: 0.01, lambda _: 1e-5)
    assert run.watched[4:] == list(range(3 + every, 300, every))


@pytest.mark.parametrize("startup", [0.0, 0.01, 5.0])
def test_without_money_to_start_with_few_looks_are_taken(startup: float) -> None:
    run = simulate(Budget(1, 0.01, startup), 5000, lambda _: 0.01, lambda _: 0.01)
    assert len(run.watched) <= 4 + (startup + 0.01 * run.training) / 0.01


BUDGETS = st.builds(
    Budget,
    every_n_steps=st.integers(1, 200),
    max_overhead=st.floats(1e-4, 1.0),
    startup_seconds=st.floats(0, 10),
)
LENGTHS = st.floats(1e-5, 100)


@settings(max_examples=200, deadline=None)
@given(
    budget=BUDGETS,
    step=st.integers(0, 10**7),
    watched=st.integers(1, 10**5),
    plain=LENGTHS,
    cost=st.tuples(LENGTHS, LENGTHS),
)
def test_a_dearer_look_is_never_followed_sooner(
    budget: Budget, step: int, watched: int, plain: float, cost: tuple[float, float]
) -> None:
    cheap, dear = sorted(cost)
    after = [
        budget.next_step(step, watched, Times(plain, plain + extra)) for extra in (0.0, cheap, dear)
    ]
    assert after == sorted(after)
    assert after[0] == step + budget.spacing(step)
    assert all(type(n) is int for n in after)
    again = Times(plain, plain + dear)
    assert budget.next_step(step, watched, again) == after[-1]
    more = replace(budget, startup_seconds=budget.startup_seconds + 1)
    assert more.next_step(step, watched, again) <= after[-1]


@settings(max_examples=100, deadline=None)
@given(budget=BUDGETS, step=st.integers(0, 10**6), watched=LENGTHS)
def test_while_nothing_is_known_steps_to_compare_with_are_left_out(
    budget: Budget, step: int, watched: float
) -> None:
    following = budget.next_step(step, step + 1, Times(0.0, watched))
    dear = (step + 3) * watched > budget.startup_seconds
    wanted = budget.spacing(step)
    assert following - step == (max(2, wanted) if dear else wanted)


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"every_n_steps": 0}, "every_n_steps"),
        ({"max_overhead": 0.0}, "max_overhead"),
        ({"max_overhead": -1.0}, "max_overhead"),
        ({"max_overhead": math.nan}, "max_overhead"),
        ({"startup_seconds": -0.1}, "startup_seconds"),
        ({"startup_seconds": math.nan}, "startup_seconds"),
    ],
)
def test_impossible_budgets_are_refused(options: dict[str, float], argument: str) -> None:
    with pytest.raises(ValueError, match=f"`{argument}`"):
        Budget(**options)  # type: ignore[arg-type]


# Times ----------------------------------------------------------------------------------------


def test_cost_is_unknown_until_both_kinds_of_step_were_measured() -> None:
    assert Times().cost is None
    assert Times(plain=1.0).cost is None
    assert Times(watched=1.0).cost is None
    assert Times(2.0, 1.5).cost == 0.0
    assert Times(2.0, 2.5).cost == 0.5


def test_what_the_step_after_a_look_takes_longer_is_part_of_its_cost() -> None:
    """It finds the caches cold."""
    assert Times(2.0, 2.5, after=2.25).cost == 0.75
    assert Times(2.0, 2.5, after=1.0).cost == 0.5


def test_what_the_hooks_cost_on_all_steps_is_taken_from_the_budget() -> None:
    """P19: 1 % of 100 s a step buys a look of 10 s every 10 steps, every 20 if hooks take half."""
    budget = Budget(1, 0.01, 0.0)
    assert budget.next_step(99, 100, Times(100.0, 110.0)) == 139  # spent 1010, a quarter a look
    assert budget.next_step(999, 99, Times(100.0, 110.0)) == 1000
    assert budget.next_step(999, 99, Times(100.0, 110.0, hooks=0.5)) == 1079
    assert overhead(1000, 100, Times(100.0, 110.0)) == pytest.approx(1000 / 101_000)
    assert overhead(1000, 50, Times(100.0, 110.0, hooks=0.5)) == pytest.approx(1000 / 100_500)


def test_hooks_that_cost_more_than_is_allowed_leave_a_quarter_of_the_budget_to_looks() -> None:
    """P38: a run of very short steps is still diagnosed."""
    budget = Budget(1, 0.01, 0.0)
    times = Times(1.0, 2.0, hooks=0.5)
    assert budget.next_step(10_000, 10, times) == 10_001
    assert budget.next_step(10_000, 25, times) == 10_400


def test_medians_are_of_the_newest_fifteen() -> None:
    times = StepTimes()
    for i in range(40):
        times.add("plain", float(i))
        times.add("watched", 1e9 if i < 20 else 3.0)
    assert times.medians() == Times(plain=32.0, watched=3.0)


def test_overhead_is_a_share_of_all_training_time() -> None:
    # 10 steps of 1 s, 5 of them with 1 s more: 5 of 15 s
    assert overhead(10, 5, Times(1.0, 2.0)) == pytest.approx(1 / 3)
    assert overhead(10, 5, Times(2.0, 1.0)) == 0.0
    assert overhead(10, 5, Times()) is None
    assert overhead(0, 0, Times(1.0, 2.0)) is None
