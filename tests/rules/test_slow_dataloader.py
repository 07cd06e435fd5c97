"""`slow-dataloader`."""

from __future__ import annotations

import pytest

from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved
from lightning_diag.rules.slow_dataloader import SlowDataloader
from rules.stories import STEPS, story


def run(share: float, seconds: float = 0.01, *, until: int = 10**6, n: int = 60) -> History:
    """Return a run that waits for this share of its time, up to a step."""

    def change(step: int, values: dict[str, dict[str, float]]) -> None:
        values["data/wait_fraction"] = {"": share if step <= until else 0.01}
        values["step_time/plain_seconds"] = {"": seconds}

    return story(change, steps=STEPS[:n])


def test_a_run_that_waits_most_of_its_time_is_found() -> None:
    (finding,) = SlowDataloader()(run(0.8))
    assert finding.severity == "suspect"
    assert finding.message == (
        "80% of the time passes in waiting for the next batch (threshold 50%), about 40 ms a step: "
        f"the median of 8 watched steps from {STEPS[52]} to {STEPS[59]}."
    )


@pytest.mark.parametrize(("share", "found"), [(0.5, 1), (0.499, 0)])
def test_the_share_decides(share: float, found: int) -> None:
    assert len(SlowDataloader()(run(share))) == found


@pytest.mark.parametrize(("seconds", "found"), [(0.0031, 1), (0.0029, 0)])
def test_a_toy_may_wait_longer_than_it_works(seconds: float, found: int) -> None:
    assert len(SlowDataloader()(run(0.5, seconds))) == found


def test_a_first_reading_of_files_passes() -> None:
    assert SlowDataloader()(run(0.9, until=STEPS[51], n=55))
    assert SlowDataloader()(run(0.9, until=STEPS[51])) == []


def test_a_few_waits_say_nothing() -> None:
    verdict = SlowDataloader().check(run(0.9, n=7))
    reason = "fewer than 8 waiting times are known"
    assert verdict == NotObserved("slow-dataloader", reason)
