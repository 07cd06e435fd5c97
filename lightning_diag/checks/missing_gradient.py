"""`MissingGradient`: parameters that the gradients of the first steps do not reach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.checks.base import Check
from lightning_diag.checks.places import Held
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.siblings import untrained_copies
from lightning_diag.wording import listing


@dataclass(frozen=True)
class MissingGradient(Check):
    """Trainable parameters that an optimizer holds and that no gradient reaches.

    What it sees:
        Training steps on a copy: parameters whose gradient is still None after each of them, and
        whether their layer ran at all. A gradient of zeros is no finding: adapters start at zero,
        and a unit may be silent for a batch. `bad` if no gradient reaches anything; a note where
        all that is missing is a whole branch that ran, of which another branch is a trained copy,
        as the moving averages of BYOL and mean teachers are.

    Why it matters:
        The parameters never learn, and nothing says so; on several devices DDP ends with an error.

    What to do:
        Call the layer in `forward`, or remove it. If it ran, look for `.detach()`, `.data`,
        `torch.no_grad()`, argmax or rounding between it and the loss. If it is meant to be frozen,
        say so with `requires_grad_(False)`.

    References:
        PyTorch documentation, Autograd mechanics.
    """

    code: ClassVar[str] = "missing-gradient"
    family: ClassVar[str] = "parameters"
    needs: ClassVar[tuple[str, ...]] = ("optimizers", "trial")

    steps: int = 16
    """Steps none of which may reach a parameter, at least 1, with the two first batches in turn;
    only one is taken where that reaches all. Our choice: a block that is dropped at random half of
    the time is left out that often once in 65,000 times, and GANs train one player more often."""

    def __post_init__(self) -> None:
        self._require("steps", least=1, unit="step")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        trial = subject.trial
        if trial.backward and trial.has_gradient:
            return self.not_observed(trial.backward)
        held = {n: p for n, p in subject.parameters.items() if p.trainable and p.groups}
        if not held:
            return self.not_observed("no optimizer holds a trainable parameter")
        if not trial.has_gradient:
            return self._cut_off(held)
        missing = [name for name in held if name not in trial.gradients]
        called = set(trial.called)
        if missing:
            for later in subject.more_trials(self.steps - 1):
                missing = [name for name in missing if name not in later.gradients]
                called |= later.called
                if not missing:
                    break
        return self._found(missing, held, called) if missing else []

    def _cut_off(self, held: Mapping[str, Held]) -> list[Finding]:
        return self.found(
            "bad",
            "The loss that `training_step` returns has no gradient, so that none of "
            f"{len(held)} trained parameters can learn.",
            "Look for `.detach()`, `.data`, `torch.no_grad`, argmax or rounding on the way from "
            "the parameters to the loss.",
            value=len(held),
            threshold=0,
            places=list(held),
        )

    def _found(
        self, missing: list[str], held: Mapping[str, Held], called: Iterable[str]
    ) -> list[Finding]:
        ran = set(called)
        layers = dict.fromkeys(held[name].layer for name in missing)
        idle = [layer for layer in layers if layer and layer not in ran]
        text = f"No gradient reaches {listing(missing)} in {self.steps} steps"
        told = f": {listing(idle)} never ran" if idle else ", though their layers ran"
        copies = untrained_copies(missing, {name: p.shape for name, p in held.items()})
        if not idle and copies.issuperset(missing):
            return self.found(
                "note",
                f"{text} ({len(missing)} of {len(held)} trained parameters){told}. Another "
                "branch has the same parameters and is trained.",
                "If they are its moving average, leave them out of the optimizer: "
                "`requires_grad_(False)`. If not, look for `.detach()` and `torch.no_grad`.",
                value=len(missing),
                threshold=0,
                places=missing,
                window=self.steps,
            )
        return self.found(
            "bad" if len(missing) == len(held) else "suspect",
            f"{text} ({len(missing)} of {len(held)} trained parameters){told}.",
            "Call the layer in `forward`, or remove it."
            if len(idle) == len(layers)
            else "Look for `.detach()`, `.data`, `torch.no_grad`, argmax or rounding between "
            "these parameters and the loss; if they are meant to be frozen, say so with "
            "`requires_grad_(False)`.",
            value=len(missing),
            threshold=0,
            places=missing,
            window=self.steps,
        )
