"""Heat maps show every place and every record, joined as they say, and nothing that was not."""

from __future__ import annotations

import math
import random
from statistics import median_high
from typing import Any

import pytest
from report_runs import make_finding, make_run

from lightning_diag.history import History
from lightning_diag.record import Record
from lightning_diag.report.payload.layers import Tree
from lightning_diag.report.payload.maps import KINDS, MOST_PLACES, heat_maps
from lightning_diag.report.payload.numbers import Value, tidy

METRIC = {kind.id: kind.metric for kind in KINDS}


def history_of(metric: str, values: dict[str, list[float | None]]) -> History:
    """Return a history with one record for each number; None is not observed."""
    history = History()
    for step in range(max(len(line) for line in values.values())):
        seen = {place: line[step] for place, line in values.items() if line[step] is not None}
        history.append(Record(step, {metric: {k: v for k, v in seen.items() if v is not None}}))
    return history


def first(history: History, *wanted: str) -> dict[str, Any]:
    return heat_maps(history, Tree(history, wanted), wanted)[0]


def test_what_was_not_observed_what_is_zero_and_what_is_not_finite_are_told_apart() -> None:
    """P13; and what was not observed is never 0."""
    shown = first(
        history_of(
            "gradient/layer_norm",
            {"a": [1.0, 0.0, math.nan, None], "b": [1.0, math.inf, -math.inf, 1e-4]},
        )
    )
    assert shown["places"] == ["a", "b"]
    assert shown["values"] == [[1, 0, "nan", None], [1, "inf", "-inf", 1e-4]]


def test_places_are_in_the_models_order_and_know_their_layers() -> None:
    history = make_run()
    tree = Tree(history)
    shown = {each["id"]: each for each in heat_maps(history, tree, ())}
    paths = [layer.path for layer in tree.layers]
    dead = shown["dead_share"]
    assert dead["places"] == [f"{2 * i + 1}/relu#0" for i in range(6)]
    assert [paths[i] for i in dead["layer"]] == [str(2 * i + 1) for i in range(6)]
    ratios = shown["update_ratio"]
    assert [paths[i] for i in ratios["layer"]] == [str(2 * i) for i in range(6)]
    assert ratios["band"] == [3e-4, 3e-3]


def slow(history: History, metric: str, place: str, n: int, pool: str) -> list[Value]:
    """Join the records of each column one by one."""
    steps = [r.step for r in history.records() if metric in r.values]
    line: list[Value] = []
    for i in range(n):
        part = steps[i * len(steps) // n : (i + 1) * len(steps) // n]
        seen = [
            r.values[metric][place]
            for r in history.records()
            if r.step in part and place in r.values.get(metric, {})
        ]
        bad = [v for v in seen if not math.isfinite(v)]
        if not seen:
            line.append(None)
        elif bad:
            line.append(tidy(bad[0]))
        else:
            line.append(tidy(max(seen) if pool == "largest" else median_high(seen), 4))
    return line


@pytest.mark.parametrize("kind", ["gradient_norm", "update_ratio", "dead_share"])
def test_columns_join_their_records_as_they_say(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a slow reference, with gaps, zeros, and numbers that are not finite."""
    monkeypatch.setattr("lightning_diag.report.payload.maps.MOST_COLUMNS", 24)
    rng = random.Random(4)
    odd = [None, 0.0, math.nan, math.inf, -math.inf, 1e308]

    def number(i: int) -> float | None:
        return rng.choice(odd) if i > 60 and rng.random() < 0.1 else rng.lognormvariate(0, 3)

    values = {name: [number(i) for i in range(150)] for name in ("a.weight", "b.weight", "c")}
    history = history_of(METRIC[kind], values)
    shown = first(history)
    assert (len(shown["steps"]), shown["records"]) == (24, 150)
    for place, row in zip(shown["places"], shown["values"], strict=True):
        assert row == slow(history, METRIC[kind], place, 24, shown["pool"])


def test_a_spike_of_one_record_among_ten_thousand_shows() -> None:
    line: list[float | None] = [1e-3] * 10_000
    line[7_777] = 40.0
    line[8_888] = math.nan
    shown = first(history_of("gradient/layer_norm", {"a": line}))
    (row,) = shown["values"]
    assert len(row) == 400
    assert [v for v in row if v != 1e-3] == [40, "nan"]
    assert shown["steps"][row.index(40)] <= 7_777 < shown["steps"][row.index(40) + 1]


def test_the_range_of_colours_is_not_set_by_one_cell() -> None:
    lines: dict[str, list[float | None]] = {f"n{i}": [1.0 + i / 100] * 10 for i in range(20)}
    lines["n3"][4] = 1e20
    low, high = first(history_of("gradient/layer_norm", lines))["range"]
    assert (low, high) == (1, 1.19)


def test_biases_have_no_update_ratio_where_weights_are_known() -> None:
    history = make_run()
    history.append(Record(401, {"update/ratio": {"0.weight": 1e-3, "0.bias": 0.5}}))
    shown = {each["id"]: each for each in heat_maps(history, Tree(history), ())}
    assert "0.bias" not in shown["update_ratio"]["places"]
    assert shown["update_ratio"]["left_out"] == 0


def test_too_many_places_are_thinned_but_never_those_of_a_finding() -> None:
    """W1 at 3,000 layers."""
    names = [f"blocks.{i}" for i in range(3000)]
    history = history_of("gradient/layer_norm", {name: [1.0] for name in names})
    found = make_finding(places=("blocks.1501",))
    shown = first(history, *found.places)
    assert len(shown["places"]) == MOST_PLACES
    assert "blocks.1501" in shown["places"]
    assert shown["left_out"] == 3000 - MOST_PLACES
    assert shown["places"] == sorted(shown["places"], key=names.index)


def test_columns_and_marks_of_a_history_are_those_of_its_records() -> None:
    """The fast way through a history gives what the slow one does."""
    rng = random.Random(5)
    history = History()
    for step in range(0, 60, 3):
        names = rng.sample(["a", "b", "c"], rng.randrange(4))
        values = {"m": {name: rng.random() for name in names}, "n": {"": 1.0}}
        history.append(Record(step, values, epoch=step // 20, seconds=step / 4))
    places = history.places("m")
    fast = [
        (step, {places[i]: value for i, value in zip(index, numbers, strict=True)})
        for step, index, numbers in history.columns("m")
    ]
    assert fast == [(r.step, dict(r.values["m"])) for r in history.records() if "m" in r.values]
    assert list(history.marks()) == [(r.step, r.epoch, r.seconds) for r in history.records()]
    assert list(history.columns("unknown")) == []
