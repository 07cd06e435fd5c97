"""What the page that compares runs draws is strict JSON, and each run's own."""

from __future__ import annotations

import json
import math
from statistics import median
from typing import Any

import pytest
from report_runs import RUNS, make_run

from lightning_diag.history import History
from lightning_diag.record import Record
from lightning_diag.report.compare import Run, compare
from lightning_diag.report.compare.payload import payload
from lightning_diag.report.payload import as_text


def drawn(*histories: History) -> dict[str, Any]:
    """Return what a page draws, as a browser reads it."""
    found = compare([Run(f"run {i}", history, ()) for i, history in enumerate(histories)])
    content: dict[str, Any] = json.loads(as_text(payload(found)))
    return content


def losses(values: list[float], validation: list[float] | None = None) -> History:
    """Return a history of these losses."""
    history = History()
    history.update_meta({"validation": {"loss": "val_loss", "metrics": {}}})
    for step, value in enumerate(values):
        history.append(Record(step, {}, {"loss/train": [value]}))
    for step, value in enumerate(validation or []):
        history.note(step, {"validation/val_loss": {"": value}})
    return history


@pytest.mark.parametrize("other", RUNS)
def test_any_two_runs_make_strict_json(other: str) -> None:
    content = drawn(RUNS["healthy"]()[0], RUNS[other]()[0], History())
    assert [run["name"] for run in content["runs"]] == ["run 0", "run 1", "run 2"]
    assert {line["run"] for line in content["loss"]["lines"]} == {0, 1}


def test_runs_of_which_nothing_is_known_have_nothing_to_draw() -> None:
    content = drawn(History(), History())
    assert content["axis"]["step"] == []
    assert content["loss"]["lines"] == content["validation"]["lines"] == content["layers"] == []


def test_the_axis_holds_all_runs() -> None:
    assert drawn(make_run(last=100), make_run(last=400))["axis"]["step"] == [0, 400]


def test_steps_without_a_finite_loss_are_told_with_their_run() -> None:
    content = drawn(losses([1.0, 2.0]), losses([1.0, math.nan, math.inf, 1.0]))
    assert content["loss"]["gaps"] == [[1, 1, 2]]


def test_losses_of_runs_that_lie_far_apart_are_on_a_logarithmic_scale() -> None:
    near = drawn(losses([2.0, 1.0], [2.0, 1.0]), losses([3.0, 2.0], [3.0, 2.0]))
    far = drawn(losses([2.0, 1.0], [2.0, 1.0]), losses([3000.0, 2000.0], [3000.0, 2000.0]))
    assert (near["loss"]["log"], near["validation"]["log"]) == (False, False)
    assert (far["loss"]["log"], far["validation"]["log"]) == (True, True)


def test_the_validation_loss_is_drawn_once() -> None:
    content = drawn(losses([2.0, 1.0], [2.0, 1.0]), losses([3.0, 2.0]))
    assert [line["run"] for line in content["validation"]["lines"]] == [0]
    assert not [one for one in content["series"] if "val_loss" in one["title"]]


def test_each_layer_has_its_median_over_each_run_and_what_it_was_at_each_step() -> None:
    one, two = make_run(3), make_run(5)
    content = drawn(one, two)
    norms = content["layers"][0]
    assert norms["metric"] == "gradient/layer_norm"
    assert norms["places"] == ["0", "2", "4", "6", "8"]
    seen = one.series("gradient/layer_norm", "2").values
    assert norms["medians"][0][1] == pytest.approx(median(seen), rel=1e-5)
    assert norms["medians"][0][3:] == [None, None]
    assert norms["runs"][0]["values"][1] == pytest.approx(seen, rel=1e-3)
    assert norms["runs"][0]["values"][3] == []
    assert all(len(row) == len(norms["runs"][1]["steps"]) for row in norms["runs"][1]["values"])


def test_many_runs_of_many_layers_share_what_a_page_may_hold() -> None:
    deep = RUNS["huge"]()[0]
    sizes = [
        len(as_text(payload(compare([Run(str(i), deep, ()) for i in range(n)])))) for n in (2, 6)
    ]
    assert sizes[0] < 3_000_000
    assert sizes[1] < 5_000_000


def test_biases_are_compared_no_more_than_they_are_shown() -> None:
    """They begin at zero, so that how far one moves relative to its size says little."""
    runs = [History(), History()]
    for i, history in enumerate(runs):
        shapes = {"a.weight": {"shape": [4, 4]}, "a.bias": {"shape": [4]}}
        history.update_meta({"parameters": shapes})
        history.append(Record(0, {"update/ratio": {"a.weight": 1.0 + i, "a.bias": 100.0**i}}))
    (table,) = compare([Run(str(i), history, ()) for i, history in enumerate(runs)]).layers
    assert [row.place for row in table.rows] == ["a.weight"]
    assert drawn(*runs)["layers"][0]["places"] == ["a.weight"]
