"""A history is bounded: what stays of a long run, in memory and in its file."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from history_checks import assert_agree, finding
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_diag.history import History
from lightning_diag.history.curve import Curve, Stretch
from lightning_diag.history.file import HistoryFile
from lightning_diag.record import Record


def run(
    history: History, count: int, *, every: int = 50, width: int = 30, start: int = 0
) -> Iterator[int]:
    """Append records whose numbers say where they are from; yield each step."""
    for i in range(start, start + count):
        step = i * every
        record = Record(
            step=step,
            values={"m": {f"p{j}": step + j / 64 for j in range(width)}},
            dense={"loss/train": [float(s) for s in range(step - every + 1, step + 1)]},
            lists={"l": {"p0": [step, 1, 2]}} if i % 7 == 0 else {},
        )
        history.append(record)
        yield step


def assert_true(history: History, width: int = 30) -> None:
    """Assert that every number kept is the one of its step."""
    for step, values in history.window("m", len(history)):
        assert values == pytest.approx({f"p{j}": step + j / 64 for j in range(width)}, rel=1e-5)
    series = history.series("loss/train")
    assert series.values == series.steps
    assert series.steps == sorted(set(series.steps))
    assert set(history.steps) <= set(series.steps)


@pytest.mark.parametrize(
    "limits",
    [{"max_bytes": 40_000}, {"max_numbers": 9_000}, {"max_bytes": 60_000, "max_numbers": 9_000}],
    ids=str,
)
def test_a_long_run_stays_within_its_limits(tmp_path: Path, limits: dict[str, int]) -> None:
    path = tmp_path / "h.jsonl"
    history = History(path, **limits)
    for step in run(history, 1500):
        assert path.stat().st_size <= limits.get("max_bytes", 64_000_000)
        assert history._memory.cost <= limits.get("max_numbers", 4_000_000)
        assert history.last("m") == {f"p{j}": step + j / 64 for j in range(30)}
        newest = list(history.steps)[-3:]
        assert newest == [s for s in (step - 100, step - 50, step) if s >= 0]
    history.close()
    assert history.steps[:16] == list(range(0, 800, 50))
    assert_true(history)
    assert_agree(history, History.open(path))


def test_old_records_stay_evenly_spread_over_the_run() -> None:
    history = History(max_numbers=20_000)
    for _ in run(history, 4000):
        pass
    old = [step for step in history.steps[16:] if step <= 160_000]
    gaps = [b - a for a, b in pairwise(old)]
    assert len(old) >= 10
    assert max(gaps) <= 2 * min(gaps)
    assert old[-1] - old[0] >= 120_000


def test_losses_of_dropped_records_stay_evenly_spread() -> None:
    history = History(max_numbers=20_000)
    for _ in run(history, 4000):
        pass
    steps = [s for s in history.series("loss/train").steps if 800 < s < 100_000]
    assert max(b - a for a, b in pairwise(steps)) <= 512


def test_the_newest_observation_of_a_rare_metric_outlives_thinning() -> None:
    history = History(max_numbers=8_000)
    history.append(Record(step=0, values={"start": {"": 1.0}}))
    for step in run(history, 800, start=1):
        if step == 10_050:
            history.append(Record(step=step + 1, values={"rare": {"": 7.0}}))
    assert history.last("rare") == {"": 7.0}
    assert history.last("start") == {"": 1.0}


def test_of_two_neighbours_the_one_with_more_metrics_stays() -> None:
    """Histograms come at a lower rate and must not be lost first."""
    history = History(max_numbers=20_000)
    for _ in run(history, 4000):
        pass
    with_lists = {step for step, _ in history.lists("l", "p0")}
    old = [step for step in history.steps[16:] if step < 100_000]
    assert len(with_lists.intersection(old)) >= 0.9 * len(old)


def count_rewritings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each rewriting of a file adds its size."""
    sizes: list[int] = []
    replace = HistoryFile.replace

    def count(file: HistoryFile, lines: Iterator[bytes]) -> None:
        replace(file, lines)
        sizes.append(file.size)

    monkeypatch.setattr(HistoryFile, "replace", count)
    return sizes


def test_a_file_is_rewritten_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewritten = count_rewritings(monkeypatch)
    path = tmp_path / "h.jsonl"
    history = History(path, max_bytes=100_000)
    for _ in run(history, 50):
        pass
    size = path.stat().st_size / 50
    for _ in run(history, 2000, start=50):
        pass
    history.close()
    assert all(size <= 75_000 for size in rewritten)
    assert len(rewritten) <= 2000 * size / 25_000


def test_metadata_and_findings_that_change_often_drop_no_record(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    with History(path, max_bytes=60_000) as history:
        for step in run(history, 30):
            for i in range(30):
                history.add_finding(finding("dead-relu", 0, step, i))
                history.update_meta({"step": step})
            assert path.stat().st_size <= 60_000
    assert len(history) == 30
    assert_agree(history, History.open(path))


def test_metadata_and_findings_of_an_earlier_process_drop_no_record_either(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    with History(path) as history:
        for i, _ in enumerate(run(history, 30)):
            history.update_meta({"number": "x" * 1_000 + str(i)})
    with History(path, max_bytes=45_000) as history:
        for _ in run(history, 20, start=30):
            pass
    assert history.steps == list(range(0, 2500, 50))
    assert path.stat().st_size <= 45_000


def test_metadata_over_the_limit_does_not_rewrite_the_file_for_each_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = count_rewritings(monkeypatch)
    with History(tmp_path / "h.jsonl", max_bytes=10_000) as history:
        history.update_meta({"names": ["p"] * 10_000})
        for _ in run(history, 300):
            pass
        assert (tmp_path / "h.jsonl").stat().st_size <= 100_000
    assert len(sizes) <= 40


@pytest.mark.parametrize("limits", [{"max_bytes": 1}, {"max_numbers": 1}], ids=str)
def test_the_newest_record_is_kept_even_if_it_is_over_the_limit(
    tmp_path: Path, limits: dict[str, int]
) -> None:
    history = History(tmp_path / "h.jsonl", **limits)
    history.update_meta({"names": ["p"] * 100})
    for step in run(history, 40):
        assert history.steps[-1] == step
        assert len(history.last("m")) == 30
        assert History.open(tmp_path / "h.jsonl").steps == history.steps
        assert (tmp_path / "h.jsonl").stat().st_size < 10_000
    history.close()


@pytest.mark.parametrize(
    ("target", "first", "own", "expected"),
    [
        (100, 7, {11}, [*range(8), 11, 32, 64]),
        (40, 7, {11}, [0, 11, 64, 128]),  # the first steps would take more than an eighth
        (20, -1, set(range(0, 1000, 10)), [*range(890, 990, 10)]),
    ],
)
def test_a_dense_curve_keeps_its_newest_half_the_first_and_those_of_records(
    target: int, first: int, own: set[int], expected: list[int]
) -> None:
    curve = Curve()
    curve.put(Stretch.ending(999, [float(step) for step in range(1000)]))
    curve.thin(target, first, own)
    steps = curve.steps.tolist()
    assert len(steps) <= target
    assert steps[-target // 2 :] == list(range(1000 - target // 2, 1000))
    assert steps[: len(expected)] == expected
    assert curve.values.tolist() == steps


@settings(deadline=None, max_examples=50)
@given(
    widths=st.lists(st.integers(0, 40), min_size=1, max_size=80),
    gaps=st.lists(st.integers(1, 70), min_size=80, max_size=80),
    limit=st.integers(200, 4000),
)
def test_thinning_keeps_the_newest_and_where_they_fit_the_first(
    widths: list[int], gaps: list[int], limit: int
) -> None:
    history, step, steps = History(max_numbers=limit), 0, []
    for width, gap in zip(widths, gaps, strict=False):
        step += gap
        steps.append(step)
        history.append(
            Record(
                step=step,
                values={"m": {f"p{j}": step + j / 64 for j in range(width)}},
                dense={"loss/train": [float(s) for s in range(step - gap + 1, step + 1)]},
            )
        )
        assert history.steps[-1] == step
        assert history._memory.cost <= max(limit, 40 + width + 2)
    assert set(history.steps) <= set(steps)
    assert history.steps == sorted(history.steps)
    first = sum(40 + width for width in widths[:16])
    if first + 2 * (42 + max(widths)) <= limit // 4:
        assert history.steps[:16] == steps[:16]
    for row_step, values in history.window("m", len(history)):
        assert all(value == row_step + int(place[1:]) / 64 for place, value in values.items())
    series = history.series("loss/train")
    assert series.values == series.steps


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_million_steps_of_a_large_model_stay_under_64_megabytes(tmp_path: Path) -> None:
    """500 places, 6 metrics each, a record every 50 steps: 3,000 numbers a record."""
    rng = random.Random(0)
    places = [f"model.layers.{i}.self_attn.weight" for i in range(500)]
    columns = [{p: rng.lognormvariate(0, 3) for p in places} for _ in range(30)]
    path = tmp_path / "h.jsonl"
    history = History(path)
    for i in range(20_000):
        step = i * 50 + 49
        values = {f"measure/output{j}": columns[(5 * i + j) % 30] for j in range(6)}
        dense = {"loss/train": [step + k / 50 for k in range(-49, 1)]}
        history.append(Record(step=step, values=values, dense=dense, optimizer_steps=(step + 1,)))
        assert path.stat().st_size <= 64_000_000
        assert history.steps[-1] == step
        assert history.last("measure/output3") == values["measure/output3"]
    history.close()
    assert history.steps[:16] == list(range(49, 849, 50))
    assert history.steps[-100:] == list(range(995_049, 1_000_049, 50))
    assert len(history) >= 400
    assert len(history.series("loss/train").steps) >= 100_000
    assert_agree(history, History.open(path))


def test_a_record_that_thins_the_history_is_written_once(tmp_path: Path) -> None:
    """A file that is rewritten for a record holds it already."""
    path = tmp_path / "h.jsonl"
    history = History(path, max_numbers=9_000)
    for _ in run(history, 500):
        pass
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [line["record"]["step"] for line in lines if "record" in line]
    assert len(steps) < 500
    assert steps == history.steps
