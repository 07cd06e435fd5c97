"""On two processes: gradients before DDP averages them, and clipping that does not diverge."""

from __future__ import annotations

import pytest

from distributed.clipping import reference
from distributed.launch import Outcome, launch

pytestmark = pytest.mark.multiprocess


@pytest.fixture
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return launch("clipping", tmp_path_factory)


@pytest.mark.parametrize(("scenario", "micro_batches"), [("ranks", 1), ("both", 2)])
def test_each_ranks_own_gradient_is_compared_with_the_average(
    outcome: Outcome, scenario: str, micro_batches: int
) -> None:
    """W15: also without accumulation, where DDP has averaged before a step can be looked at."""
    first, second = outcome.of(scenario)
    wanted = reference(micro_batches)
    assert first["estimates"] == second["estimates"]
    for found, (trace, signal) in zip(first["estimates"], wanted, strict=True):
        assert found == pytest.approx([trace, signal], rel=1e-3, abs=1e-7 * trace)
    sizes = [record["values"]["noise_scale/batch_size"][""] for record in first["records"]]
    assert sizes == [8.0 * micro_batches] * len(wanted)


def test_by_hand_each_rank_splits_its_own_batch(outcome: Outcome) -> None:
    """A rank's four samples are four parts, and the estimates of both ranks are averaged."""
    first, second = outcome.of("by_hand")
    assert first["estimates"] == second["estimates"]
    for found, wanted in zip(first["estimates"], reference(1, split=4), strict=True):
        assert found == pytest.approx(wanted, rel=1e-3, abs=1e-7 * wanted[0])


@pytest.mark.parametrize("scenario", ["ranks", "both", "by_hand"])
def test_nothing_hangs_on_a_wrapped_model_afterwards(outcome: Outcome, scenario: str) -> None:
    """P17."""
    for result in outcome.of(scenario):
        assert set(result["attached"].values()) == {0}


def test_training_ends_bit_for_bit_as_without(outcome: Outcome) -> None:
    """Looking at gradients before DDP averages them changes nothing."""
    for result in outcome.of("bare"):
        assert result["watched"] == result["bare"]


def test_ranks_clip_alike_and_as_one_process_does(outcome: Outcome) -> None:
    """All hold the same gradients, so they come to the same threshold, bit for bit (R6)."""
    first, second = outcome.of("clipped")
    assert first == second
    assert len(first["norms"]) == 6
    assert first["norms"] == pytest.approx(outcome.alone("clipped")["norms"], rel=1e-4)
