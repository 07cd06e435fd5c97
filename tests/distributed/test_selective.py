"""Two ranks each train on the hardest of their own samples, and on as many (P16)."""

from __future__ import annotations

import pytest

from distributed.launch import Outcome, launch

pytestmark = pytest.mark.multiprocess


@pytest.fixture
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return launch("selective", tmp_path_factory)


def test_each_rank_trains_on_the_hardest_of_its_own(outcome: Outcome) -> None:
    first, second = outcome.of("chosen")
    for rank, found in enumerate((first, second)):
        assert found["trained"] == found["expected"]
        assert [len(each) for each in found["trained"]] == [3] * 8
        assert all(i % 2 == rank for each in found["trained"] for i in each)
    assert first["weights"] == second["weights"]


def test_ranks_that_resume_draw_what_they_would_have_drawn(outcome: Outcome) -> None:
    first, second = outcome.of("resumed")
    for found in (first, second):
        assert found["again"] == found["whole"][3:]
        assert found["weights"][0] == found["weights"][1]
    places = [[i // 2 for i in found["whole"][0]] for found in (first, second)]
    assert places[0] != places[1]
