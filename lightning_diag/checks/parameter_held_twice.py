"""`ParameterHeldTwice`: parameters that more than one step changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.checks.base import Check
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.wording import listing


@dataclass(frozen=True)
class ParameterHeldTwice(Check):
    """Parameters that are listed more than once by optimizers.

    What it sees:
        The groups of all optimizers, compared by identity, so that tied weights under two names
        are one. `bad` if one optimizer lists a parameter twice; a `note` if two optimizers hold it,
        which players that share layers do on purpose. That a parameter is in two groups of one
        optimizer torch refuses itself.

    Why it matters:
        Each listing is a step: the learning rate is twice the one that was set, and the state of
        the optimizer is updated twice as often.

    What to do:
        List each parameter once. Tied weights have two names: collect them by `id`, not by name.

    References:
        PyTorch documentation, torch.optim.
    """

    code: ClassVar[str] = "parameter-held-twice"
    family: ClassVar[str] = "parameters"
    needs: ClassVar[tuple[str, ...]] = ("optimizers",)

    least: int = 1
    """Parameters from which on it counts, at least 1: one is enough to be a mistake (our
    choice)."""

    def __post_init__(self) -> None:
        self._require("least", least=1, unit="parameter")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        held = [each for each in subject.parameters.values() if each.trainable]
        twice = [e.name for e in held if len(e.groups) > len({i for i, _ in e.groups})]
        shared = [e.name for e in held if len({i for i, _ in e.groups}) > 1]
        places = twice or shared
        if len(places) < self.least:
            return []
        what = "listed twice by one optimizer" if twice else "held by two optimizers or more"
        return self.found(
            "bad" if twice else "note",
            f"{len(places)} of {len(held)} trainable parameters are {what}: {listing(places)}.",
            "List each parameter once in `configure_optimizers`: tied weights have two names, and "
            "are one parameter.",
            value=len(places),
            threshold=self.least,
            places=places,
            window=len(held),
        )
