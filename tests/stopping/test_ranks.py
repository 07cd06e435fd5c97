"""Two ranks stop, prune and restore at the same place, whatever each of them logs (L5, W12)."""

from __future__ import annotations

import pytest
from distributed.launch import Outcome, launch

pytestmark = [pytest.mark.multiprocess, pytest.mark.timeout(120)]


@pytest.fixture
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return launch("stopped", tmp_path_factory)


def test_ranks_that_log_different_losses_decide_by_their_mean(outcome: Outcome) -> None:
    first, second = outcome.of("differing")
    assert first == second
    assert first["epochs"] < 30
    assert "did not improve" in first["reason"]


def test_a_loss_that_only_one_rank_logs_is_everybodys(outcome: Outcome) -> None:
    first, second = outcome.of("only_second")
    assert first == second
    assert first["values"]


def test_a_broken_trial_ends_on_all_ranks_at_the_same_step(outcome: Outcome) -> None:
    first, second = outcome.of("diverging")
    assert (first["raised"], first["step"]) == (second["raised"], second["step"])
    assert first["attributes"]["pruned_by"] in {"diverging-loss", "non-finite"}
    assert first["attributes"]["pruned_at_step"] == first["step"] < 320
    assert second["attributes"] is None


def test_what_the_pruner_says_on_rank_zero_ends_all_ranks(outcome: Outcome) -> None:
    first, second = outcome.of("hopeless")
    assert first["raised"].startswith("pruner at step 24")
    assert first["step"] == second["step"] == 24
    assert second["raised"].startswith("pruner at step 24")
    assert first["attributes"]["pruned_by"] == "pruner"
