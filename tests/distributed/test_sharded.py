"""Numbers of sharded parameters are those of whole ones, on every rank (P5)."""

from __future__ import annotations

import pytest

from distributed.compare import differences, unlike
from distributed.launch import Outcome, launch
from distributed.sharded import OPTIONS

pytestmark = pytest.mark.multiprocess


@pytest.fixture
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return launch("sharded", tmp_path_factory)


@pytest.mark.parametrize("name", OPTIONS)
def test_parameters_are_spread_and_one_rank_holds_nothing_of_the_smallest(
    outcome: Outcome, name: str
) -> None:
    first, second = (result[name]["parts"] for result in outcome.of("spread"))
    whole = outcome.alone("spread")[name]["parts"]
    assert {place: first[place] + second[place] for place in first} == whole
    assert second["gate.weight"] == second["gate.bias"] == 0
    assert second["first.weight"] > 0


@pytest.mark.parametrize("name", OPTIONS)
def test_sharded_parameters_give_the_numbers_of_one_process(outcome: Outcome, name: str) -> None:
    together, alone = outcome.of("spread")[0][name], outcome.alone("spread")[name]
    for record in together["records"]:
        assert record["values"]["gradient/total_norm"][""] > 0
        for metric in ("gradient/norm", "update/ratio"):
            assert record["values"][metric].keys() == together["parts"].keys()
    different = differences(together["records"], alone["records"], rtol=1e-5)
    assert not different, different[:20]


@pytest.mark.parametrize("name", OPTIONS)
def test_every_rank_holds_the_same_numbers_of_sharded_parameters(
    outcome: Outcome, name: str
) -> None:
    first, second = (result[name] for result in outcome.of("spread"))
    assert not unlike(first["records"], second["records"])
    assert first["warnings"] == second["warnings"] == []


@pytest.mark.parametrize("name", OPTIONS)
def test_each_ranks_shards_end_bit_for_bit_as_without_monitors(outcome: Outcome, name: str) -> None:
    for result in outcome.of("spread"):
        assert result[name]["weights"] == result[name]["bare"]
