"""Whether advice that nobody declared helps: what it says is done, and the run is trained again."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from . import proofs
from .recipe import Recipe
from .train import Outcome, train

Advice = Callable[[Recipe], Recipe]

ADVICE: dict[str, Advice] = {
    "learning-rate-too-high": lambda r: r.but(rate=r.rate / 10),
    "learning-rate-too-low": lambda r: r.but(rate=10 * r.rate),
    "over-regularisation": lambda r: r.but(weight_decay=0.0, dropout=0.0),
    "noisy-gradient": lambda r: r.but(batch_size=8 * r.batch_size),
}
"""What a finding advises."""


def confirmed(run: Outcome, codes: Iterable[str]) -> set[str]:
    """Return those codes whose advice, followed by itself, makes a sick run clearly better.

    A finding is true of a run if doing what it says mends it, whatever else is wrong with it. It
    is no verdict: the cause that was put in stays the cause.
    """
    found = set()
    for code in sorted(codes):
        if code in ADVICE:
            treated = ADVICE[code](run.recipe)
            if treated != run.recipe and _is_better(run, train(treated)):
                found.add(code)
    return found


def _is_better(run: Outcome, treated: Outcome) -> bool:
    """Return whether a run that was treated answers more, survives, or gets off the ground.

    Almost any loss is lower at the end of smaller steps, so that scores count. But the score of
    what is lost says nothing, nor does one that is not what the loss trains: a run that is lost
    must neither be lost nor give back what it won; one that stood still, at a third of its first
    loss or more, must come to a third of that.
    """
    if not proofs.harmed(run, treated):
        return True
    if proofs.is_lost(run):
        return proofs.given_back(treated) < 0.5
    stands = proofs.stalled(run) >= 0.9 and run.last >= abs(run.start.loss) / 3
    return stands and 3 * treated.last <= run.last
