"""Two ranks step with the rates of one, half way up and after a resume (P14, P15)."""

from __future__ import annotations

from typing import Any

import pytest
from lr.fits import STEPS, closed_form

from distributed.launch import Outcome, launch
from distributed.lr_steps import ALTERNATING, PAIRS, START, WARMUP

pytestmark = pytest.mark.multiprocess

CASES = pytest.mark.parametrize(
    ("case", "group"),
    [
        pytest.param(f"{kind}-{accumulation}", "lr_steps", id=f"{kind}-{accumulation}")
        if (kind, accumulation) in ALTERNATING
        else pytest.param(
            f"{kind}-{accumulation}",
            "lr_steps_rest",
            marks=pytest.mark.slow,
            id=f"{kind}-{accumulation}",
        )
        for kind, accumulation in PAIRS
    ],
)


@pytest.fixture
def matrix(tmp_path_factory: pytest.TempPathFactory, group: str) -> Outcome:
    return launch(group, tmp_path_factory)


@pytest.fixture
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return launch("lr_steps", tmp_path_factory)


def expected(bare: list[float], since: int = 0) -> Any:
    factors = [closed_form(t, WARMUP, START) for t in range(since, STEPS)]
    return pytest.approx([lr * f for lr, f in zip(bare, factors, strict=True)], rel=1e-9)


@CASES
def test_two_ranks_take_steps_with_the_closed_form(matrix: Outcome, case: str) -> None:
    """P14: W counts optimizer steps, not those times ranks."""
    for result in matrix.of("matrix"):
        found = result[case]
        assert found["warm"]["used"] == expected(found["bare"]["used"])
        assert found["warm"]["resting"] == found["bare"]["resting"]
    found = matrix.of("matrix")[0][case]
    assert found["warm"]["logged"] == expected(found["bare"]["used"])


@CASES
def test_two_ranks_resume_half_way_up_with_the_closed_form(matrix: Outcome, case: str) -> None:
    for result in matrix.of("matrix"):
        found = result[case]
        bare = found["bare_resumed"]["used"]
        assert found["resumed"]["used"] == expected(bare, WARMUP // 2)
        if not case.startswith("plateau"):
            assert found["resumed"]["used"] == found["warm"]["used"][WARMUP // 2 :]
            assert found["resumed"]["weight"] == found["warm"]["weight"]


@CASES
def test_two_ranks_use_what_one_uses(matrix: Outcome, case: str) -> None:
    assert matrix.of("matrix")[1][case]["warm"] | {"logged": []} == matrix.alone("matrix")[case][
        "warm"
    ] | {"logged": []}


def test_the_effective_batch_counts_ranks(outcome: Outcome) -> None:
    """P15: per device × devices × accumulated."""
    first, second = outcome.of("scaled")
    assert first["even"]["batch"] == "8 = 2 per device × 2 devices × 2 accumulated"
    assert outcome.alone("scaled")["even"]["batch"] == (
        "4 = 2 per device × 1 device × 2 accumulated"
    )
    assert first["even"]["seen"][0] == 2 * outcome.alone("scaled")["even"]["seen"][0]
    assert first["even"]["weight"] == second["even"]["weight"]


def test_ranks_with_unlike_batches_agree_on_one_rate(outcome: Outcome) -> None:
    first, second = outcome.of("scaled")
    assert first["uneven"]["batch"] == "16 = 4 per device × 2 devices × 2 accumulated"
    assert first["uneven"] == second["uneven"]


def test_all_ranks_ask_when_one_does_not_know(outcome: Outcome) -> None:
    """No rank is left waiting for one that has stopped."""
    for said in outcome.of("unknown"):
        assert said.startswith("MisconfigurationException: The batch size cannot be read"), said
