"""Hard samples are drawn alike on two ranks, and on one (P16)."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest

from distributed.launch import Outcome, launch
from distributed.sampled import BATCH, CASES

pytestmark = pytest.mark.multiprocess


@pytest.fixture
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return launch("sampled", tmp_path_factory)


def flat(batches: Any) -> list[int]:
    return list(chain.from_iterable(batches))


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_train_on_what_one_trains_on(outcome: Outcome, case: str) -> None:
    """The same samples in every batch over all ranks, in parts of one length."""
    first, second = (result[case]["epochs"] for result in outcome.of("drawn"))
    alone = outcome.alone("drawn")[case]["epochs"]
    assert len(first) == len(second) == len(alone) == 4
    for one, other, whole in zip(first, second, alone, strict=True):
        assert len(one) == len(other) == len(whole) > 0
        for mine, others, together in zip(one, other, whole, strict=True):
            assert len(mine) == len(others) == BATCH // 2
            assert sorted(mine + others) == sorted(together)


@pytest.mark.parametrize("case", [case for case in CASES if case.endswith("without")])
def test_without_replacement_no_sample_comes_twice_on_any_rank(outcome: Outcome, case: str) -> None:
    first, second = (result[case]["epochs"] for result in outcome.of("drawn"))
    for one, other in zip(first, second, strict=True):
        drawn = flat(one) + flat(other)
        assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("case", CASES)
def test_lightning_neither_replaces_nor_wraps_the_sampler(outcome: Outcome, case: str) -> None:
    assert [result[case]["samplers"] for result in outcome.of("drawn")] == [["OHEMSampler"]] * 2


@pytest.mark.parametrize("case", CASES)
def test_ranks_join_the_losses_that_each_has_seen(outcome: Outcome, case: str) -> None:
    first, second = (result[case]["losses"] for result in outcome.of("drawn"))
    assert first == second == pytest.approx(outcome.alone("drawn")[case]["losses"])
    if case == "even-replaced-with":
        assert min(first) > 0


@pytest.mark.parametrize("step", ["6", "8", "9"])
def test_two_ranks_go_on_in_the_middle_of_an_epoch(outcome: Outcome, step: str) -> None:
    """Also with what the other rank has seen of it, though the first one alone writes files."""
    for result in outcome.of("resumed"):
        assert result[step]["batches"] == result["whole"][int(step) :]
        assert result[step]["losses"] == result["losses"]
    first, second = outcome.of("resumed")
    assert first["losses"] == second["losses"]
    assert first["whole"] != second["whole"]
