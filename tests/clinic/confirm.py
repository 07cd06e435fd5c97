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
            # Scores, not losses: almost any loss is lower at the end of smaller steps.
            if treated != run.recipe and not proofs.harmed(run, train(treated)):
                found.add(code)
    return found
