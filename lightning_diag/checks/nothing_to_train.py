"""`NothingToTrain`: optimizers that hold frozen parameters only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.checks.base import Check
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved


@dataclass(frozen=True)
class NothingToTrain(Check):
    """An optimizer all of whose parameters are frozen.

    What it sees:
        Whether anything that an optimizer holds requires a gradient. `bad` if nothing at all does;
        else `suspect`, since the other optimizers train. One frozen parameter beside trained ones
        is no finding: a frozen backbone is often handed over with its head.

    Why it matters:
        Its steps change nothing, and weight decay neither: the run trains less than it was meant
        to, or nothing.

    What to do:
        Call `requires_grad_(True)` on what is to be trained, before `configure_optimizers`.

    References:
        PyTorch documentation, Autograd mechanics.
    """

    code: ClassVar[str] = "nothing-to-train"
    family: ClassVar[str] = "parameters"
    needs: ClassVar[tuple[str, ...]] = ("optimizers",)

    least: int = 1
    """Optimizers from which on it counts, at least 1 (our choice: none is there for nothing)."""

    def __post_init__(self) -> None:
        self._require("least", least=1, unit="optimizer")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        known = subject.parameters.values()
        trained = {i for each in known if each.trainable for i, _ in each.groups}
        optimizers = subject.optimizers
        idle = [i for i in range(len(optimizers)) if i not in trained]
        if len(idle) < self.least:
            return []
        frozen = [e.name for e in known if {i for i, _ in e.groups} & set(idle)]
        names = ", ".join(f"{type(optimizers[i]).__name__} ({i + 1})" for i in idle)
        return self.found(
            "bad" if len(idle) == len(optimizers) else "suspect",
            f"Nothing that {len(idle)} of {len(optimizers)} optimizers hold requires a gradient: "
            f"{names}, with {len(frozen)} frozen parameters.",
            "Call `requires_grad_(True)` on what is to be trained, before "
            "`configure_optimizers` is called.",
            value=len(idle),
            threshold=self.least,
            places=frozen,
            window=len(optimizers),
        )
