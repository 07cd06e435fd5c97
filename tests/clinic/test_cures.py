"""The clinic's runs at a wrong learning rate, treated as the finding says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import rich

from .cures import KINDS, cure, told
from .examine import prepare_process

pytestmark = [
    # Lightning's advice on trainings as small as these.
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    prepare_process()
    yield
    rich.reconfigure()


@pytest.mark.parametrize("kind", ["too_high", "too_low"])
def test_a_run_at_a_wrong_learning_rate_is_cured(kind: str) -> None:
    """P14, P21."""
    each = cure(kind, 7, 0)
    assert each is not None
    assert each.was_found
    assert each.is_gone, told(each)
    assert each.learns, told(each)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_nearly_all_drawn_runs_at_a_wrong_learning_rate_are_cured(kind: str) -> None:
    """Where the range test has a suggestion, the finding goes, and nearly always the loss falls.

    It may have none now and then, and a run that learned in spite of a rate that was too high
    may end a little lower than one at the rate that is suggested.
    """
    drawn = [each for i in range(20) if (each := cure(kind, 8, i)) is not None]
    found = [each for each in drawn if each.was_found]
    suggested = [each for each in found if each.test.lr is not None]
    assert len(found) >= 10
    assert len(suggested) >= 0.8 * len(found)
    assert [told(each) for each in suggested if not each.is_gone] == []
    worse = [told(each) for each in suggested if not each.learns]
    assert len(worse) <= 0.1 * len(suggested), worse
