"""Ranks that see different things, or fail alone, neither hang nor disagree (P5, P6, P7)."""

from __future__ import annotations

from typing import Any

import pytest

from distributed.compare import unlike
from distributed.launch import Outcome, launch
from distributed.spoilers import BROKEN
from distributed.trouble import APART, BATCHES, LATE
from lightning_diag.measure.noise import GradientPairMeasure

pytestmark = pytest.mark.multiprocess


@pytest.fixture
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return launch("trouble", tmp_path_factory)


def _steps_with(records: list[dict[str, Any]], metric: str, place: str = "") -> list[int]:
    """Return the steps whose record has a metric at a place, as a number or as the last of many."""
    return [
        record["step"]
        for record in records
        if place in record["values"].get(metric, {}) or (not place and metric in record["dense"])
    ]


def test_columns_that_any_rank_lacks_are_dropped_and_those_of_all_are_joined(
    outcome: Outcome,
) -> None:
    first, second = outcome.of("shapes")
    assert not unlike(first, second)
    for i, step in enumerate(first["steps"]):
        expected = {"always": [[3.0, 3.0], []], f"new{i}": [[], [-4.0]]}
        assert step == expected | ({"returns": [[2.0], []]} if i % 3 == 0 else {})
    assert first["scalars"] == {"i": 39.0, "rank": 1.0}


def test_columns_of_ever_new_shapes_do_not_make_the_join_grow(outcome: Outcome) -> None:
    sizes = outcome.of("shapes")[0]["sizes"]
    assert sizes[-1] == sizes[19] < 24


def test_a_place_that_a_rank_skips_is_absent_and_comes_back(outcome: Outcome) -> None:
    first, second = outcome.of("branches")
    assert not unlike(first["records"], second["records"])
    both = [step for step in range(BATCHES) if step not in APART]
    for metric, place in (
        ("activation/mean", "optional.1/relu#0"),
        ("activation/variance_gain", "optional.0/linear#0"),
        ("dead_relu/window_samples", "optional.1/relu#0"),
    ):
        assert _steps_with(first["records"], metric, place) == both
    everywhere = _steps_with(first["records"], "activation/mean", "act/relu#0")
    assert everywhere == list(range(BATCHES))


def test_a_place_that_comes_late_is_seen_from_its_first_step_on(outcome: Outcome) -> None:
    records = outcome.of("branches")[0]["records"]
    late = list(range(LATE, BATCHES))
    assert _steps_with(records, "activation/mean", "sigmoid#0") == late
    assert _steps_with(records, "activation/variance_gain", "late/linear#0") == late


BROKEN_MONITORS = {
    "call": ("BadTracker", "dead_relu/window_samples", "act/relu#0", BROKEN),
    "batch": ("BadLoss", "loss/train", "", BROKEN),
    # its record is under way already when it raises
    "digest": ("BadGradient", "gradient/total_norm", "", BROKEN + 1),
}
OF_ANOTHER = {f"gradient/{output}" for output in GradientPairMeasure.outputs}
"""Metrics whose name begins like those of the gradient monitor, and that another one measures."""


@pytest.mark.parametrize("name", BROKEN_MONITORS)
def test_a_monitor_that_raises_on_one_rank_falls_silent_on_all(outcome: Outcome, name: str) -> None:
    first, second = (result[name] for result in outcome.of("broken"))
    cls, metric, place, end = BROKEN_MONITORS[name]
    assert _steps_with(first["records"], metric, place) == list(range(end))
    prefixes = {metric.split("/")[0] + "/", "lr/" if name == "batch" else "none/"}
    after = [metric for record in first["records"][end:] for metric in _metrics(record)]
    assert after
    told = [m for m in after if m.startswith(tuple(prefixes)) and m not in OF_ANOTHER]
    assert not told
    assert set(after) >= OF_ANOTHER
    assert not unlike(first["records"][end:], second["records"][end:])
    assert not unlike(first["records"][:BROKEN], second["records"][:BROKEN])
    assert first["warnings"] == []
    assert len(second["warnings"]) == 1
    assert cls in second["warnings"][0]
    assert "a bug on one rank" in second["warnings"][0]


def _metrics(record: dict[str, Any]) -> list[str]:
    return [*record["values"], *record["dense"], *record["lists"]]


@pytest.mark.parametrize("name", BROKEN_MONITORS)
def test_training_goes_on_as_if_the_broken_monitor_had_not_been_there(
    outcome: Outcome, name: str
) -> None:
    for result in outcome.of("broken"):
        assert result[name]["weights"] == result["weights"]
        assert result[name]["records"][-1]["step"] == BATCHES - 1
        assert "update/ratio" in result[name]["records"][-1]["values"]


def test_nan_on_one_rank_is_counted_on_both_at_the_same_step(outcome: Outcome) -> None:
    first, second = outcome.of("nan")
    assert not unlike(first["records"], second["records"])
    for metric in ("activation/nonfinite_count", "gradient/nonfinite_count"):
        bad = [r["step"] for r in second["records"] if sum(r["values"][metric].values()) > 0]
        assert bad == list(range(BROKEN, BATCHES))


@pytest.mark.parametrize("strategy", ["FSDPStrategy", "DeepSpeedStrategy"])
def test_what_a_strategy_keeps_out_of_reach_is_absent_with_one_warning(
    outcome: Outcome, strategy: str
) -> None:
    results = [result[strategy] for result in outcome.of("unreachable")]
    texts = [text for result in results for text in result["warnings"]]
    assert len(texts) == 1
    for name in (strategy, "GradientMonitor", "UpdateRatioLogger"):
        assert name in texts[0]
    metrics = {metric for result in results for r in result["records"] for metric in _metrics(r)}
    assert not [metric for metric in metrics if metric.startswith(("gradient/", "update/"))]
    assert {"activation/mean", "loss/train", "lr/value"} <= metrics


def test_a_second_fit_goes_on_with_the_first_ones_history_on_both_ranks(outcome: Outcome) -> None:
    first, second = outcome.of("again")
    assert not unlike(first["records"], second["records"])
    steps = [record["step"] for record in first["records"]]
    assert steps == sorted(set(steps))
    assert steps[0] == 0
    assert BATCHES in steps
    assert first["losses"] == list(range(2 * BATCHES))
    assert second["folder"] is None


def test_an_error_on_one_rank_leaves_nothing_attached_on_any(outcome: Outcome) -> None:
    lonely, failed = outcome.of("crash")
    assert failed["error"] == "ValueError: a bug of the user's"
    assert lonely["error"].startswith("RuntimeError")
    for result in (lonely, failed):
        assert result["before"] == result["attached"]
        assert not any(result["attached"].values())
        assert result["steps"] == list(range(BROKEN))
        assert result["warnings"] == []
