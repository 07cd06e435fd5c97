"""Notes are taken by all ranks together, or by none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import pytest
import torch

from lightning_diag.history import History
from lightning_diag.measure.tally import Tally
from lightning_diag.probe.guard import Guard
from lightning_diag.probe.notes import NoteTaker
from lightning_diag.probe.observer import Note, Observer, Stage

T = TypeVar("T")


class Silent(Observer):
    """Has something to say on other ranks only."""

    def note(self, stage: Stage) -> Any:
        """Say nothing."""
        return None

    def noted(self, stage: Stage, of_ranks: Sequence[Any]) -> Note:
        """Add up."""
        return Note({"sum": {"": float(sum(of_ranks))}})


class Failing(Silent):
    """Fails on this rank."""

    def note(self, stage: Stage) -> Any:
        """Fail."""
        raise ValueError("a bug")


class Ranks(Tally):
    """Stands for three ranks, of which this one is the first."""

    def __init__(self, *others: Any) -> None:
        super().__init__(1, torch.device("cpu"))
        self.others = others
        self.asked = 0

    def all_of(self, value: T) -> list[T]:
        """Return what this rank says, and the others."""
        self.asked += 1
        return [value, *self.others]


@pytest.mark.parametrize("stage", ["validation", "epoch"])
def test_a_rank_that_has_nothing_to_say_hears_the_others(stage: Stage) -> None:
    """P6: it would be missed in an exchange that all must take part in."""
    ranks, history = Ranks([(False, 3)], [(False, 4)]), History()
    assert NoteTaker([Silent()], Guard(), ranks).take(stage, 5, history)
    assert ranks.asked == 1
    assert history.last("sum") == {"": 7.0}


def test_ranks_meet_although_none_has_anything_to_say() -> None:
    """P6: no rank can know that the others are silent too."""
    ranks, history = Ranks([(False, None)]), History()
    assert not NoteTaker([Silent()], Guard(), ranks).take("epoch", 5, history)
    assert ranks.asked == 1
    assert history.metrics() == []


@pytest.mark.filterwarnings("ignore:Failing is switched off")
def test_a_rank_whose_observer_failed_still_meets_the_others() -> None:
    """P5, P6: and then nobody's notes count, now and from then on."""
    ranks, history = Ranks([(False, 3)]), History()
    taker = NoteTaker([Failing()], Guard(), ranks)
    for asked in (1, 2):
        assert not taker.take("validation", 5, history)
        assert ranks.asked == asked
    assert history.metrics() == []
