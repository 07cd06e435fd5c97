"""Samples that two ranks share are followed as one data set (W13, P7, P32)."""

from __future__ import annotations

from typing import Any

import pytest

from distributed.compare import unlike
from distributed.followed import EPOCHS, SAMPLES, WRONG
from distributed.launch import Outcome, launch

pytestmark = pytest.mark.multiprocess


@pytest.fixture
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return launch("followed", tmp_path_factory)


def shown(result: dict[str, Any], name: str) -> list[int]:
    (looks,) = result["shown"][name].values()
    return [one["index"] for one in looks[-1][1]["examples"]]


def test_both_ranks_know_the_course_of_every_sample(outcome: Outcome) -> None:
    """By the samples' own numbers, which ranks join once an epoch."""
    first, second = outcome.of("whole")
    told: dict[int, list[float]] = {}
    for number, margin in [*first["margins"], *second["margins"]]:
        told.setdefault(number, []).append(margin)
    assert sorted(told) == list(range(SAMPLES))
    assert sum(map(len, told.values())) == EPOCHS * (SAMPLES + 1)
    for index, margins in told.items():
        course = first["courses"][index]
        assert course["looks"] == len(margins)
        assert course["margin"] == pytest.approx(sum(margins) / len(margins), abs=1e-3)
    assert first["courses"] == second["courses"]
    assert not unlike(first["shown"], second["shown"])
    assert first["warnings"] == second["warnings"] == []


def test_no_sample_is_listed_twice_though_one_was_repeated(outcome: Outcome) -> None:
    result = outcome.of("whole")[0]
    for name in ("worst", "suspicious"):
        indices = shown(result, name)
        assert len(indices) == len(set(indices))
    assert sorted(shown(result, "suspicious")) == WRONG


def test_a_run_that_goes_on_knows_what_one_knows_that_never_stopped(outcome: Outcome) -> None:
    """P25: what the second rank has seen is in the checkpoint of the first."""
    for whole, resumed in zip(outcome.of("whole"), outcome.of("resumed"), strict=True):
        assert whole["courses"] == resumed["courses"]
        assert whole["weights"] == resumed["weights"]


def test_weights_are_those_of_a_run_without_it(outcome: Outcome) -> None:
    for whole, bare in zip(outcome.of("whole"), outcome.of("bare"), strict=True):
        assert whole["weights"] == bare["weights"]


def test_ranks_with_data_of_their_own_are_not_mixed_up(outcome: Outcome) -> None:
    for result in outcome.of("own_data"):
        assert result["courses"] == []
        assert ["cannot tell which samples" in text for text in result["warnings"]] == [True]
