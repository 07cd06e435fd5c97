"""Ranks whose copies of the model drift apart are seen to, on all of them alike (P1)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy

from distributed.compare import unlike
from distributed.launch import Outcome, launch
from distributed.replicas import STEPS
from lightning_diag.monitors.setup import _keeps_replicas

pytestmark = pytest.mark.multiprocess


@pytest.fixture
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return launch("replicas", tmp_path_factory)


def differences(result: Any) -> dict[int, dict[str, float]]:
    """Return what was measured at each step at which ranks were compared."""
    return {
        record["step"]: record["values"]["setup/rank_difference"]
        for record in result["records"]
        if "setup/rank_difference" in record["values"]
    }


def test_copies_that_ddp_keeps_equal_differ_by_exactly_nothing(outcome: Outcome) -> None:
    first, _ = outcome.of("equal")
    found = differences(first)
    assert list(found) == [0, 4, 16]
    assert {value for seen in found.values() for value in seen.values()} == {0.0}
    assert len(found[0]) == 8
    assert first["findings"] == []


@pytest.mark.parametrize(("scenario", "since"), [("thawed", 4), ("thawed_late", 16)])
def test_a_layer_that_was_unfrozen_under_ddp_is_found(
    outcome: Outcome, scenario: str, since: int
) -> None:
    """P1: the only one that is not averaged, and what lies before it stays equal."""
    (finding,) = outcome.of(scenario)[0]["findings"]
    assert finding["severity"] == "bad"
    assert set(finding["places"]) <= {"second.weight", "second.bias"}
    assert finding["steps"][0] == since
    assert finding["steps"][1] < STEPS


def test_unlike_first_weights_are_found_in_the_first_step(outcome: Outcome) -> None:
    (finding,) = outcome.of("own")[0]["findings"]
    assert finding["places"][0] == "third.weight"
    assert finding["steps"][0] == 0


@pytest.mark.parametrize("scenario", ["equal", "thawed", "thawed_late", "own"])
def test_all_ranks_say_the_same(outcome: Outcome, scenario: str) -> None:
    first, second = outcome.of(scenario)
    assert not unlike(first["records"], second["records"])
    assert first["findings"] == second["findings"]


def test_strategies_that_let_ranks_drift_or_shard_are_left_out() -> None:
    drifting = DDPStrategy()
    drifting._model_averager = SimpleNamespace()  # type: ignore[assignment]
    assert _keeps_replicas(DDPStrategy())
    assert not _keeps_replicas(drifting)
    assert not _keeps_replicas(ModelParallelStrategy())
    assert not _keeps_replicas(SingleDeviceStrategy())
