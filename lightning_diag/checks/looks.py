"""Problems of loss calls that must show again in further steps before they count."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from lightning_diag.checks.losses import SeenLoss
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.trial import Trial
from lightning_diag.misfits import Problem


class Agreed(NamedTuple):
    """A problem that showed at each look at a call."""

    place: str
    problem: Problem
    """As it was first seen."""
    looks: int


def agreed(
    subject: Subject, find: Callable[[SeenLoss, Trial], Problem | None], looks: int
) -> list[Agreed]:
    """Return the problems of loss calls that showed each time, the worst first.

    Only the calls of the first step that have one are looked at again.

    Args:
        subject: What is looked at; its first step must be there.
        find: Says what is wrong with a call that is trained by, in its step.
        looks: Steps at most.
    """
    first = {
        seen.place: problem
        for seen in subject.trial.losses
        if seen.trained and (problem := find(seen, subject.trial)) is not None
    }
    counts = dict.fromkeys(first, 1)
    for trial in subject.more_trials(looks - 1) if first else ():
        for seen in trial.losses:
            if seen.place not in counts or not seen.trained:
                continue
            if find(seen, trial) is None:
                del counts[seen.place]
            else:
                counts[seen.place] += 1
    found = [Agreed(place, first[place], count) for place, count in counts.items()]
    return sorted(found, key=lambda each: ("bad", "suspect", "note").index(each.problem.severity))
