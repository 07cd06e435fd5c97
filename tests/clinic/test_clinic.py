"""The clinic itself, its draws, and the Doctor on a fixed small part of them."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import rich

from lightning_diag.rules import default_rules

from . import __main__ as command
from . import failed, healthy, lessons, page, table
from .cases import HEALTHS, SICKNESSES, draw
from .confirm import confirmed
from .examine import Patient, examine, examine_place, plain, verdict
from .lessons import Lesson
from .proofs import ever_dead, given_back, held_swing, stalled, swing, symptoms
from .recipe import Recipe
from .train import Outcome, quiet, train
from .vitals import Vitals

pytestmark = [
    # Lightning's advice on trainings as small as these.
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

QUICK_LESSONS = [
    "a LeNet of zeros", "the last layer from N(100, 10)", "eight sigmoid layers",
    "a learning rate of 1e-6", "a learning rate of 1e6", "pixels from 0 to 255",
    "validation by its own statistics", "softmax twice",
]  # fmt: skip
"""Trained in the quick suite, sick only."""
QUICK_HEALTHY = [
    "classes", "images", "sequences", "regression", "adapters",
    "small_batches", "accumulation", "early_plateau", "frozen_backbone",
]  # fmt: skip
SLOW_HEALTHY = ["adversaries", "gentle", "tied_weights"]
"""Those that take longest."""


KNOWN: dict[str, str] = {}
"""What is not right yet; a test fails once it is, so that the list stays true."""


def _cases(names: Iterable[str]) -> list[Any]:
    marks = {name: pytest.mark.xfail(reason=why, strict=True) for name, why in KNOWN.items()}
    marks |= dict.fromkeys(SLOW_HEALTHY, pytest.mark.slow)
    return [pytest.param(n, marks=marks[n]) if n in marks else pytest.param(n) for n in names]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    quiet()
    yield
    rich.reconfigure()  # the command has taken the terminal from rich


def _lesson(name: str) -> Lesson:
    (lesson,) = (one for one in lessons.LESSONS if one.name == name)
    return lesson


def _said(result: dict[str, Any]) -> str:
    return f"{result['recipe']}: {[(f['code'], f['severity']) for f in result['findings']]}"


@pytest.mark.parametrize("name", QUICK_LESSONS)
def test_a_sick_run_gets_the_right_verdict(name: str, tmp_path: Any) -> None:
    lesson = _lesson(name)
    patient = Patient(lesson.sick.every, str(tmp_path))
    train(lesson.sick, [patient])
    assert verdict(patient.findings) in lesson.verdicts, patient.findings


@pytest.mark.parametrize("name", _cases([*QUICK_HEALTHY, *SLOW_HEALTHY]))
def test_a_healthy_run_raises_no_alarm(name: str) -> None:
    result = examine_place(1, "healthy", 0, name)[-1]
    assert not result["dropped"]
    assert all(f["severity"] == "note" for f in result["findings"]), _said(result)


@pytest.mark.slow
@pytest.mark.parametrize("name", _cases(lesson.name for lesson in lessons.LESSONS))
def test_a_lesson_is_sick_then_treated_then_healthy(name: str, tmp_path: Any) -> None:
    """What the lectures show (W1 to W15, C1 to C7)."""
    lesson = _lesson(name)
    sick, well = (Patient(r.every, str(tmp_path)) for r in (lesson.sick, lesson.treated))
    train(lesson.sick, [sick])
    assert verdict(sick.findings) in lesson.verdicts, sick.findings
    run = train(lesson.treated, [well])
    assert run.gain() > 0.3
    alarms = [f for f in well.diagnosis.active if f.severity != "note"]
    assert not alarms, alarms


@pytest.mark.slow
@pytest.mark.parametrize("health", HEALTHS, ids=lambda health: health.name)
def test_no_healthy_kind_is_called_bad(health: Any) -> None:
    for index in range(3):
        result = examine_place(2, "healthy", index, health.name)[-1]
        assert all(f["severity"] != "bad" for f in result["findings"]), _said(result)


def test_a_draw_is_the_same_each_time() -> None:
    for group in ("sick", "healthy"):
        cases = [draw(5, group, i) for i in range(40)]
        assert [c.recipe for c in cases] == [draw(5, group, i).recipe for i in range(40)]
        assert len({str(c.recipe) for c in cases}) > 35


def test_other_seeds_draw_other_runs() -> None:
    mine, other = ({str(draw(seed, "sick", i).recipe) for i in range(40)} for seed in (5, 6))
    assert not mine & other


def test_a_run_repeats_to_the_last_digit() -> None:
    recipe = Recipe(3, norm="bn", dropout=0.2, steps=60)
    first, again = train(recipe), train(recipe)
    assert first.losses == again.losses
    assert first.end == again.end


def test_the_doctor_changes_nothing(tmp_path: Any) -> None:
    recipe = Recipe(4, net="cnn", norm="bn", width=4, dropout=0.2, steps=60, every=5)
    assert train(recipe).losses == train(recipe, [Patient(5, str(tmp_path))]).losses


def test_measuring_a_model_leaves_it_as_it_is() -> None:
    """Batch norm, dropout's random numbers and gradients."""
    recipe = Recipe(5, norm="bn", dropout=0.2, steps=20)
    assert train(recipe).losses == train(recipe).losses


def test_every_rule_has_a_sickness_but_the_one_that_needs_several_processes() -> None:
    codes = {rule.code for rule in default_rules()}
    assert codes - {sick.code for sick in SICKNESSES} == {"rank-divergence"}


def test_what_sicknesses_name_are_rules() -> None:
    codes = {rule.code for rule in default_rules()}
    named = {code for sick in SICKNESSES for code in (sick.code, *sick.equals, *sick.brings)}
    assert named <= codes


def test_a_recipe_survives_json() -> None:
    recipe = Recipe(3, rate=0.3).with_faults(scale=255.0)
    assert Recipe.from_dict(json.loads(json.dumps(plain(recipe.to_dict())))) == recipe


def test_a_harmless_draw_is_dropped_and_says_why() -> None:
    case = draw(1, "sick", 0, 0, "raw_scale")
    well = case.recipe.but(faults=())
    assert examine(_with(case, well))["dropped"]


def _with(case: Any, recipe: Recipe) -> Any:
    return replace(case, recipe=recipe)


def test_dead_units_are_counted_on_the_whole_training_set() -> None:
    run = train(Recipe(6, init="he", steps=5).with_faults(hidden_bias=-50.0))
    assert max(run.end.dead.values()) == 1.0
    assert {"dead-relu", "constant-prediction", "missing-gradient"} <= symptoms(run)


def test_a_healthy_model_has_no_symptom_of_death() -> None:
    assert not {"dead-relu", "non-finite", "missing-gradient"} & symptoms(
        train(Recipe(7, steps=60))
    )


def _course(losses: list[float], held: list[float] | None = None) -> Outcome:
    vitals = Vitals(loss=losses[0])
    return Outcome(Recipe(1), losses, held or [], vitals, Vitals(), 0, 0.0)


def test_a_swing_is_told_from_a_slope() -> None:
    assert swing(_course([2.0 - 0.01 * i for i in range(150)])) < 1e-9
    assert math.isclose(swing(_course([1.0, 0.5] * 100)), 0.25, rel_tol=0.01)
    assert held_swing(_course([1.0], [0.4, 0.2] * 3)) > 0.09
    assert held_swing(_course([1.0], [0.4, 0.2])) == 0


def test_what_was_never_won_cannot_be_given_back() -> None:
    assert given_back(_course([1.0] * 20 + [1.3] * 80)) == 0
    assert given_back(_course([1.0] * 20 + [0.2] * 40 + [1.0] * 40)) == 1
    assert given_back(_course([1.0] * 20 + [2.5] * 80)) == math.inf
    assert given_back(_course([1.0, math.nan])) == math.inf


def test_a_loss_has_stalled_if_its_late_quarter_is_as_high_as_an_early_one() -> None:
    assert stalled(_course([2.0] * 25 + [1.0] * 75)) == 1
    assert stalled(_course([2.0] * 25 + [1.0] * 50 + [0.5] * 25)) == 0.5


def test_what_passed_on_the_way_was_true() -> None:
    run = train(Recipe(6, init="he", steps=40))
    learner_state = {n: v.clone() for n, v in run.weights[5].items()}
    for name in learner_state:
        if name.endswith("bias"):
            learner_state[name] -= 100.0
    run.weights[5] = learner_state
    assert ever_dead(run) == 1.0
    assert max(run.end.dead.values()) < 0.2


def test_advice_that_helps_is_true_and_advice_that_does_not_is_not() -> None:
    run = train(Recipe(3, rate=100.0, steps=60))
    codes = {"learning-rate-too-high", "learning-rate-too-low", "over-regularisation"}
    assert confirmed(run, codes) == {"learning-rate-too-high"}


def test_a_resumed_run_is_watched_from_its_second_half_on(tmp_path: Any) -> None:
    patient = Patient(5, str(tmp_path))
    run = train(Recipe(3, steps=40, resumes=True), [patient])
    assert len(run.losses) == 40
    assert patient.history is not None
    assert next(iter(patient.history.series("loss/train").steps)) >= 20


def test_the_scale_search_skips_its_first_steps() -> None:
    """What overflows changes no weight, and the search then finds a scale that does not."""
    recipe = Recipe(3, steps=48, precision="16-search")
    run = train(recipe)
    start = train(recipe.but(steps=8))
    assert not start.changed
    assert run.changed


def test_a_run_that_overfits_by_a_tenth_is_not_healthy() -> None:
    run = _course([2.0] * 5 + [0.1] * 95)
    run.end = Vitals(score=1.0, held_score=0.89)
    assert "overfits" in healthy.learns(run)
    run.end = Vitals(score=1.0, held_score=0.91)
    assert not healthy.learns(run)


def test_wilsons_interval() -> None:
    """Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662."""
    low, high = table.wilson(81, 263)
    assert math.isclose(low, 0.2553, abs_tol=1e-4)
    assert math.isclose(high, 0.3662, abs_tol=1e-4)
    assert table.wilson(0, 0) == (0.0, 1.0)


def _result(group: str, code: str = "", **changes: Any) -> dict[str, Any]:
    return {
        "name": "1/sick/0/0", "group": group, "kind": "k", "recipe": "r", "dropped": "",
        "code": code, "equals": [], "brings": [], "verdict": "", "findings": [],
        "not_observed": {}, "loss": [1.0, 1.0], **changes,
    }  # fmt: skip


def _found(code: str, severity: str = "suspect", since: int = 8) -> dict[str, Any]:
    return {"code": code, "severity": severity, "since": since, "caused_by": None, "message": ""}


def test_recall_and_precision_by_hand() -> None:
    results = [
        _result("sick", "a", findings=[_found("a")], verdict="a"),
        _result("sick", "a", findings=[_found("b")], verdict="b"),
        _result("sick", "a", findings=[_found("a", "note", 20)], verdict="a", dropped="harmless"),
        _result("sick", "b", findings=[_found("a"), _found("b")], verdict="b", brings=["a"]),
        _result("healthy", findings=[_found("a", "bad"), _found("b", "note")]),
        _result("healthy"),
    ]
    row = table.row("a", results)
    assert (row.sick, row.seen, row.named) == (2, 1, 1)
    assert (row.right, row.wrong) == (2, 1)
    assert (row.healthy_alarms, row.healthy_bad, row.step) == (1, 1, 8)
    row = table.row("b", results)
    assert (row.right, row.wrong, row.healthy_notes) == (1, 1, 1)
    assert "| `a` | `b` | 0.50 (0.09–0.91) 1/2 |" in table.confusions(results)
    kinds = [line.split()[0] for line in failed.failures(results)]
    assert sorted(kinds) == ["EXTRA", "FALSE", "MISS"]


def test_the_page_keeps_what_no_draw_writes() -> None:
    results = [{**_result("sick", "a", findings=[_found("a")], verdict="a"), "index": 0}]
    text = f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n"
    new = page.renewed(text, results, 9)
    assert new.startswith("before\n")
    assert new.endswith("after\n")
    assert "old" not in new
    assert "Seed 9" in new
    assert "| `a` | 1 | 1.00" in new
    assert page.renewed(new, results, 9) == new
    with pytest.raises(ValueError, match="needs the lines"):
        page.renewed("no marks", results, 9)


def test_a_missing_rival_is_said_to_be_missing() -> None:
    found: dict[str, Any] = {"SageMaker": [], "AutoTrainer": []}
    lines = table.baseline_table([_result("sick", "a", baselines=found)])
    assert lines[-1] == "Not installed, so not in this table: torchmortem."
    assert not any(line.startswith("| torchmortem") for line in lines)


def test_failures_stand_under_their_rule() -> None:
    results = [
        _result("sick", "a", findings=[_found("a"), _found("b")], verdict="b", brings=["b"]),
        _result("healthy", findings=[_found("c")]),
    ]
    lines = failed.by_rule(results)
    assert lines[lines.index("## a") + 1].startswith("VERDICT b for a")
    assert lines[lines.index("## c") + 1].startswith("FALSE c")


class InThisProcess(ThreadPoolExecutor):
    """Takes tasks as other processes do, pickled; without their imports, which take seconds."""

    def __init__(self, jobs: int, context: Any) -> None:
        super().__init__(jobs)

    def submit(self, *task: Any, **options: Any) -> Any:
        return super().submit(*pickle.loads(pickle.dumps(task)), **options)


def test_the_command_trains_reports_and_resumes(
    capsys: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "ProcessPoolExecutor", InThisProcess)
    out = tmp_path / "results.jsonl"
    given = ["--seed", "7", "--sick", "1", "--healthy", "1", "--out", str(out)]
    lines = tmp_path / "table.md"
    command.main([*given, "--only", "bad_arithmetic", "--healthy", "0", "--markdown", str(lines)])
    assert "`non-finite` | 1 | 1.00" in lines.read_text()
    before = out.read_text()
    command.main([*given, "--only", "bad_arithmetic", "--healthy", "0"])
    assert out.read_text() == before
    assert "sick runs: 1" in capsys.readouterr().out
