"""Ranks that validate apart agree on what came of it (P6, P7)."""

from __future__ import annotations

from typing import Any

import pytest

from distributed.compare import unlike
from distributed.launch import Outcome, launch

pytestmark = pytest.mark.multiprocess
AT = [1, 3, 5, 7, 9, 11]
"""Steps after which a validation runs."""


@pytest.fixture
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return launch("validating", tmp_path_factory)


def _values(result: dict[str, Any], name: str) -> list[float]:
    steps, values = result["series"][name]
    assert steps == AT
    return list(values)


def test_what_ranks_log_apart_is_averaged_over_those_that_log_it(outcome: Outcome) -> None:
    for result in outcome.of("validated"):
        assert _values(result, "validation/val_rank ") == [0.5] * 6
        assert _values(result, "validation/val_only_0 ") == [10.0] * 6
        assert _values(result, "validation/val_only_1 ") == [11.0] * 6
        assert result["meta"]["validation"]["loss"] == "val_loss"


def test_all_ranks_hold_the_same_numbers(outcome: Outcome) -> None:
    first, second = outcome.of("validated")
    assert first["series"] == second["series"]
    assert not unlike(first["records"], second["records"])
    assert first["warnings"] == second["warnings"] == []


def test_two_ranks_see_what_one_sees(outcome: Outcome) -> None:
    alone, first = outcome.alone("validated"), outcome.of("validated")[0]
    names = [name for name in alone["series"] if name.startswith(("data/", "validation/val_loss"))]
    assert {name.partition(" ")[2] for name in names} >= {"train/0", "validation/0", "validation/1"}
    for name in names:
        steps, values = alone["series"][name]
        assert first["series"][name][0] == steps, name
        assert first["series"][name][1] == pytest.approx(values, rel=1e-4, abs=1e-6), name


def test_a_training_metric_is_averaged_and_absent_where_a_rank_lacks_it(outcome: Outcome) -> None:
    first = outcome.of("validated")[0]
    assert first["series"]["metric/train_rank "] == [list(range(12)), [0.5] * 12]
    assert "metric/train_alone " not in first["series"]


def test_notes_that_fail_on_one_rank_are_silent_on_all(outcome: Outcome) -> None:
    first, second = outcome.of("failing")
    assert first["series"] == second["series"]
    assert not any(name.startswith("validation/") for name in first["series"])
    assert first["series"]["data/mean validation/0"][0] == AT
    assert "Fails is switched off" in second["warnings"][0]
    assert first["warnings"] == []
