"""Random search from coarse to fine: where to look next, and where a range ends too early (L6)."""

from __future__ import annotations

import math
import random
import warnings
from typing import Any

import optuna
import pytest
import pytorch_lightning as pl
import torch

from lightning_diag import DiagWarning, Doctor, OptunaPruning
from lightning_diag.stopping.search import (
    Range,
    edge_of_range,
    edge_of_values,
    narrow,
    ranges_of,
    suggest,
)
from stopping.digits import classifier, digits
from stopping.scripted import trainer


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def searched(
    objective: Any, ranges: dict[str, Range], trials: int, direction: Any = "minimize"
) -> Any:
    """Return a study that has searched at random."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0), direction=direction)
    study.optimize(lambda trial: objective(suggest(trial, ranges)), n_trials=trials)
    return study


def valley(at: float) -> Any:
    """Return a loss whose minimum on a log scale is there."""
    return lambda values: (math.log10(values["lr"]) - math.log10(at)) ** 2


def test_positions_are_on_the_ranges_own_scale() -> None:
    log, linear = Range(1e-4, 1.0), Range(0.0, 10.0, log=False)
    assert log.position(1e-2) == pytest.approx(0.5)
    assert log.at(0.25) == pytest.approx(1e-3)
    assert (log.at(0.0), log.at(1.0)) == (1e-4, 1.0)
    assert linear.position(2.5) == 0.25
    assert linear.at(0.25) == 2.5


def test_values_are_drawn_evenly_on_a_log_scale_and_whole_where_asked() -> None:
    ranges = {"lr": Range(1e-4, 1.0), "depth": Range(1, 4, log=False, whole=True)}
    study = searched(lambda values: values["lr"], ranges, 200)
    below = [t.params["lr"] < 1e-2 for t in study.trials]
    assert 0.4 < sum(below) / 200 < 0.6
    assert {t.params["depth"] for t in study.trials} == {1, 2, 3, 4}
    assert ranges_of(study) == ranges


@pytest.mark.parametrize(
    ("at", "side", "text"),
    [(10.0, "high", "widen it above 0.1"), (1e-7, "low", "widen it below 0.0001")],
)
def test_a_best_value_at_the_edge_is_named_with_the_side_to_widen(
    at: float, side: str, text: str
) -> None:
    study = searched(valley(at), {"lr": Range(1e-4, 0.1)}, 20)
    with pytest.warns(DiagWarning, match=text):
        (edge,) = edge_of_range(study)
    assert (edge.name, edge.side, edge.trials) == ("lr", side, 20)


def test_a_best_value_within_is_no_edge_on_a_log_scale() -> None:
    """0.004 is in the lowest twentieth of 0.0001 to 0.1 on a linear scale, and in the middle."""
    study = searched(valley(0.004), {"lr": Range(1e-4, 0.1)}, 20)
    assert edge_of_range(study) == []


def test_the_larger_value_is_the_better_one_where_the_study_says_so() -> None:
    study = searched(lambda v: v["lr"], {"lr": Range(1e-4, 0.1)}, 20, "maximize")
    with pytest.warns(DiagWarning, match="upper edge"):
        assert edge_of_range(study)[0].side == "high"


def test_the_outermost_trial_is_at_the_edge_within_three_gaps_and_any_within_the_margin() -> None:
    unit = Range(0.0, 1.0, log=False)
    tried = [0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.69]
    edge = edge_of_values("x", 0.75, unit, tried)  # three gaps of 0.1 each
    assert edge is not None
    assert (edge.side, edge.beyond, edge.trials) == ("high", 0, 9)
    assert edge_of_values("x", 0.7, unit, tried) is None  # one lies beyond
    assert edge_of_values("x", 0.69, unit, [*tried[:6], 0.69]) is not None
    assert edge_of_values("x", 0.69, unit, [*tried[:6], 0.69] * 2) is None  # gaps are smaller
    edge = edge_of_values("x", 0.04, unit, [*tried, 0.02, 0.04])
    assert edge is not None
    assert (edge.side, edge.beyond) == ("low", 1)
    assert edge_of_values("x", 0.04, unit, [*tried, 0.02, 0.04], margin=0.01) is None


def test_pruned_trials_beyond_the_best_one_are_trials() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))

    def objective(trial: Any) -> float:
        lr = suggest(trial, {"lr": Range(1e-4, 0.1)})["lr"]
        if lr > 0.06:
            raise optuna.TrialPruned
        return -lr

    study.optimize(objective, n_trials=20)
    assert edge_of_range(study) == []
    done = [trial.params["lr"] for trial in study.trials if trial.state.name == "COMPLETE"]
    assert edge_of_values("lr", max(done), Range(1e-4, 0.1), done) is not None


def test_an_optimum_beyond_the_range_is_noticed_in_nearly_every_search() -> None:
    ranges, missed = {"lr": Range(1e-4, 0.1)}, 0
    for seed in range(40):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
        study.optimize(lambda t: -suggest(t, ranges)["lr"], n_trials=10)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DiagWarning)
            missed += edge_of_range(study) == []
    assert missed <= 4


def test_a_parameter_that_does_not_matter_is_at_an_edge_as_often_as_said() -> None:
    """2 / n + 2 margins: 0.14 at most, of 50 trials."""
    draw, alarms = random.Random(0), 0
    for _ in range(2000):
        tried = [draw.random() for _ in range(50)]
        alarms += edge_of_values("x", tried[0], Range(0, 1, log=False), tried) is not None
    assert 0.1 < alarms / 2000 < 0.14


def test_finer_ranges_hold_the_optimum_and_are_narrower() -> None:
    """Over 30 searches of 25 trials each, with two parameters of which one does not matter."""
    ranges = {"lr": Range(1e-5, 1.0), "decay": Range(1e-6, 1e-2)}
    held = []
    for seed in range(30):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
        at = 10 ** random.Random(seed).uniform(-4.5, -0.5)
        study.optimize(lambda t, at=at: valley(at)(suggest(t, ranges)), n_trials=25)  # type: ignore[misc]
        finer = narrow(study)
        assert finer["lr"].low >= 1e-5
        assert finer["lr"].high <= 1.0
        assert math.log10(finer["lr"].high / finer["lr"].low) < 0.6 * 5
        held.append(finer["lr"].low <= at <= finer["lr"].high)
    assert sum(held) >= 29


def test_whole_ranges_stay_whole_and_a_range_of_one_value_is_not_narrowed() -> None:
    ranges = {"depth": Range(1, 8, log=False, whole=True), "lr": Range(1e-3, 1.0)}
    study = searched(lambda v: abs(v["depth"] - 4), ranges, 40)
    finer = narrow(study)["depth"]
    assert finer.low == int(finer.low) <= 4 <= finer.high == int(finer.high)
    assert finer.high - finer.low < 7


def test_pruned_failed_and_infinite_trials_do_not_count() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))

    def objective(trial: Any) -> float:
        suggest(trial, {"lr": Range(1e-4, 0.1)})
        if trial.number % 2:
            raise optuna.TrialPruned
        return math.inf if trial.number == 0 else 1.0

    study.optimize(objective, n_trials=10)
    with pytest.raises(ValueError, match="at least 5 finished trials, got 4"):
        edge_of_range(study)
    with pytest.raises(ValueError, match="at least 5 finished trials, got 4"):
        narrow(study)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Range(1.0, 0.1), "`low` must be below `high`, both finite, got 1.0 and 0.1"),
        (lambda: Range(0.0, 1.0), "`low` must be above 0 on a log scale, got 0.0"),
        (lambda: edge_of_range(None, margin=0.5), "`margin` must be at least 0 and below 0.5"),
        (lambda: narrow(None, best=0.0), "`best` must be above 0 and at most 1, got 0.0"),
    ],
)
def test_wrong_arguments_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_recipe_finds_a_learning_rate_on_digits(tmp_path: Any) -> None:
    """L6, W12: few epochs, at random, pruned when broken, then finer; an edge is named."""

    def objective(trial: Any, ranges: dict[str, Range]) -> float:
        torch.manual_seed(0)
        callbacks = [
            Doctor(dirpath=str(tmp_path / str(trial.number)), max_overhead=1e9),
            OptunaPruning(trial, "val_loss"),
        ]
        fit = trainer(pl, *callbacks, max_epochs=2)
        lr = suggest(trial, ranges)["lr"]
        fit.fit(classifier(pl, lr), *digits())
        return float(fit.callback_metrics["val_loss"])

    def new_study() -> Any:
        return optuna.create_study(
            sampler=optuna.samplers.RandomSampler(1), pruner=optuna.pruners.NopPruner()
        )

    coarse, study = {"lr": Range(1e-4, 1e3)}, new_study()
    study.optimize(lambda trial: objective(trial, coarse), n_trials=10)
    pruned = [trial for trial in study.trials if trial.state.name == "PRUNED"]
    assert pruned
    assert all(trial.params["lr"] > 0.5 for trial in pruned)
    assert {trial.user_attrs["pruned_by"] for trial in pruned} <= {"diverging-loss", "non-finite"}
    fine = narrow(study, coarse)["lr"]
    assert 1e-3 < fine.low < study.best_params["lr"] < fine.high < 3.0

    low = new_study()
    low.optimize(lambda trial: objective(trial, {"lr": Range(1e-5, 1e-3)}), n_trials=6)
    with pytest.warns(DiagWarning, match="widen it above 0.001"):
        assert [edge.side for edge in edge_of_range(low)] == ["high"]
