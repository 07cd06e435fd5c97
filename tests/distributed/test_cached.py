"""Two ranks fill one cache together, and train on it as they would without (P44)."""

from __future__ import annotations

import pytest

from distributed.launch import Outcome, launch

pytestmark = pytest.mark.multiprocess


@pytest.fixture
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return launch("cached", tmp_path_factory)


def test_ranks_end_with_the_weights_that_they_have_without_a_cache(outcome: Outcome) -> None:
    first, second = outcome.of("together")
    assert len({*first["weights"], *second["weights"]}) == 1
    for found in (first, second):
        assert found["order"][0] == found["order"][1] == found["order"][2]
        assert found["kinds"] == ["CachedInput"]


def test_ranks_see_unlike_samples_of_one_cache_that_is_filled_once(outcome: Outcome) -> None:
    first, second = outcome.of("together")
    assert first["order"][0] != second["order"][0]
    assert first["entries"] == second["entries"] == 1
    assert not first["rewritten"]
    assert not second["rewritten"]


def test_odd_shares_end_with_the_same_weights_too(outcome: Outcome) -> None:
    first, second = outcome.of("uneven")
    assert len({*first["weights"], *second["weights"]}) == 1
