"""`ParameterNotInOptimizer`: trainable parameters that no optimizer holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.checks.base import Check
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.siblings import untrained_copies
from lightning_diag.wording import listing


@dataclass(frozen=True)
class ParameterNotInOptimizer(Check):
    """Parameters that require gradients but that no optimizer holds.

    What it sees:
        The parameters of the module and the groups of its optimizers, compared by identity: a
        parameter that equals another is not held because that one is. Frozen parameters do not
        count. `bad` if a layer is held in part, which nobody wants; else `suspect`; a note where
        it is a whole branch that no gradient reaches, of which another one is a trained copy, as
        moving averages are. Nothing is said of those that a callback may add once they are thawed:
        these are frozen until then.

    Why it matters:
        The parameters never change, though gradients are computed for them at full cost (P2, P22).

    What to do:
        Give the optimizer every parameter, also those of layers that were replaced or unfrozen
        later; freeze the others with `requires_grad_(False)`.

    References:
        PyTorch documentation, torch.optim.
    """

    code: ClassVar[str] = "parameter-not-in-optimizer"
    family: ClassVar[str] = "parameters"
    needs: ClassVar[tuple[str, ...]] = ("optimizers",)

    least: int = 1
    """Parameters left out from which on it counts, at least 1: one is enough to be a mistake (our
    choice)."""

    def __post_init__(self) -> None:
        self._require("least", least=1, unit="parameter")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        trainable = [each for each in subject.parameters.values() if each.trainable]
        outside = [each for each in trainable if not each.groups]
        if len(outside) < self.least:
            return []
        held = {each.layer for each in trainable if each.groups}
        split = [each.name for each in outside if each.layer in held]
        places = split + [each.name for each in outside if each.name not in split]
        partly = f" Of {listing(split)} the same layer is held in part." if split else ""
        names = [each.name for each in outside]
        shapes = {each.name: each.shape for each in trainable}
        reached = {} if subject.lacks("trial") else subject.trial.gradients
        is_copy = reached.keys().isdisjoint(names) and untrained_copies(names, shapes) >= {*names}
        return self.found(
            "note" if is_copy else "bad" if split else "suspect",
            f"{len(outside)} of {len(trainable)} trainable parameters are in no optimizer: "
            f"{listing(places)}.{partly}",
            "Give them to the optimizer in `configure_optimizers`, or freeze them with "
            "`requires_grad_(False)`.",
            value=len(outside),
            threshold=self.least,
            places=places,
            window=len(trainable),
        )
