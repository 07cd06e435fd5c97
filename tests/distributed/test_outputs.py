"""What loss calls are given joins over ranks and micro-batches (P6, P7, P10)."""

from __future__ import annotations

import pytest

from distributed.compare import differences, unlike
from distributed.launch import Outcome, launch

pytestmark = pytest.mark.multiprocess
OURS = ("output/", "target/", "class/")


@pytest.fixture
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return launch("outputs", tmp_path_factory)


@pytest.mark.parametrize("scenario", ["shared", "accumulated"])
def test_two_ranks_give_the_numbers_of_one(outcome: Outcome, scenario: str) -> None:
    together, alone = outcome.of(scenario)[0]["records"], outcome.alone(scenario)["records"]
    assert not differences(together, alone, rtol=1e-6, only=OURS)
    metrics = {m for record in together for kind in ("values", "lists") for m in record[kind]}
    assert {"output/accuracy", "output/sample_spread", "target/std", "class/target_count"} <= (
        metrics
    )


def test_confused_classes_are_joined_over_ranks(outcome: Outcome) -> None:
    """The class that is ignored is never the true one, and both ranks' samples count."""
    together, alone = outcome.of("ignoring")[0]["records"], outcome.alone("ignoring")["records"]
    assert not differences(together, alone, rtol=1e-6, only=("class/",))
    told = [pairs for r in together for pairs in r["lists"].get("class/confusions", {}).values()]
    assert told
    assert all(1.0 not in pairs[::3] for pairs in told)


@pytest.mark.parametrize("scenario", ["shared", "uneven", "moody", "ignoring"])
def test_both_ranks_hold_the_same_history_bit_for_bit(outcome: Outcome, scenario: str) -> None:
    first, second = outcome.of(scenario)
    assert not unlike(first["records"], second["records"])
    assert not unlike(first["meta"], second["meta"])
    assert first["warnings"] == second["warnings"] == []
    assert set(first["meta"]["losses"]) == {"cross_entropy#0", "mse_loss#0"}


def test_a_call_that_a_rank_leaves_out_is_absent_from_that_step(outcome: Outcome) -> None:
    for record in outcome.of("moody")[0]["records"]:
        places = set(record["values"].get("output/loss", {}))
        if places:
            assert places == {"cross_entropy#0"} | (
                {"mse_loss#0"} if record["step"] % 3 == 0 else set()
            )
