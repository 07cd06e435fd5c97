"""What is shown of two ranks is what one shows, and the same on both (P6, P7, P10)."""

from __future__ import annotations

from typing import Any

import pytest

from distributed.compare import differences, unlike
from distributed.launch import Outcome, launch

pytestmark = pytest.mark.multiprocess
OURS = ("filter/", "example/")


@pytest.fixture
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return launch("shown", tmp_path_factory)


def newest(result: dict[str, Any]) -> dict[str, Any]:
    (pieces,) = result["shown"]["example/worst"].values()
    content: dict[str, Any] = pieces[-1][1]
    return content


@pytest.mark.parametrize("scenario", ["shared", "accumulated"])
def test_two_ranks_give_the_numbers_of_one(outcome: Outcome, scenario: str) -> None:
    together, alone = outcome.of(scenario)[0]["records"], outcome.alone(scenario)["records"]
    assert not differences(together, alone, rtol=1e-6, only=OURS)
    metrics = {metric for record in together for metric in record["values"]}
    assert {"filter/smoothness", "example/worst_loss", "example/mean_loss"} <= metrics


@pytest.mark.parametrize("scenario", ["shared", "accumulated"])
def test_filters_of_two_ranks_are_those_of_one(outcome: Outcome, scenario: str) -> None:
    together, alone = (
        result["shown"]["filter/pixels"]["conv.weight"]
        for result in (outcome.of(scenario)[0], outcome.alone(scenario))
    )
    assert [step for step, _ in together] == [step for step, _ in alone]
    for (_, one), (_, other) in zip(together, alone, strict=True):
        assert one["limit"] == pytest.approx(other["limit"], rel=1e-6)
        assert one["smoothness"] == pytest.approx(other["smoothness"], rel=1e-6)


def test_the_worst_of_two_ranks_are_the_worst_of_all_samples(outcome: Outcome) -> None:
    """Each half batch tells its eight worst, so two ranks tell no fewer than one."""
    together, alone = newest(outcome.of("shared")[0]), newest(outcome.alone("shared"))
    assert together["samples"] == alone["samples"]
    assert [one["index"] for one in together["examples"]] == [
        one["index"] for one in alone["examples"]
    ]
    assert {one["rank"] for one in together["examples"]} == {0, 1}
    for one, other in zip(together["examples"], alone["examples"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["pixels"] == other["pixels"]
        assert one["target"] == other["target"]


@pytest.mark.parametrize("scenario", ["shared", "accumulated", "moody"])
def test_both_ranks_show_the_same(outcome: Outcome, scenario: str) -> None:
    first, second = outcome.of(scenario)
    assert not unlike(first["shown"], second["shown"])
    assert not unlike(first["records"], second["records"])
    assert first["warnings"] == second["warnings"] == []


def test_a_loss_that_a_rank_leaves_out_costs_only_its_samples(outcome: Outcome) -> None:
    """The other rank's are told."""
    result = outcome.of("moody")[0]
    at = [r["step"] for r in result["records"] if "example/worst_loss" in r["values"]]
    assert at
    assert all(step % 3 == 0 for step in at)
    assert newest(result)["examples"]
