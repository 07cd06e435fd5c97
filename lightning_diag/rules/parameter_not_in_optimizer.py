"""`ParameterNotInOptimizer`: trainable parameters that no optimizer holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.reading import is_stuck, listing, parameters
from lightning_diag.siblings import untrained_copies


@dataclass(frozen=True)
class ParameterNotInOptimizer(Rule):
    """Parameters that require gradients but that no optimizer holds.

    What it sees:
        The metadata of the run: which parameters are trainable, and which optimizers hold them.
        Frozen parameters do not count. `bad` if a layer is held in part, which nobody wants, or
        if the loss stands still; else `suspect`. A note where it is a whole branch that no
        gradient reaches, of which another one is a trained copy: moving averages and teachers are
        often left trainable without harm.

    Why it matters:
        The parameters never change, though gradients are computed for them at full cost (P2, P22).

    What to do:
        Give the optimizer every parameter, also those of layers that were replaced or unfrozen
        later; freeze the others with `requires_grad_(False)`.

    References:
        PyTorch documentation, torch.optim.
    """

    code: ClassVar[str] = "parameter-not-in-optimizer"
    uses: ClassVar[tuple[str, ...]] = ("gradient/norm", "loss/train")

    least: int = 1
    """Parameters left out from which on it counts, at least 1: one is enough to be a mistake (our
    choice)."""

    def __post_init__(self) -> None:
        self._require("least", least=1, unit="parameter")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        known = parameters(history)
        if not known:
            return self.not_observed("the parameters are not known")
        trainable = [name for name, about in known.items() if about["trainable"]]
        outside = [name for name in trainable if not known[name]["optimizers"]]
        if len(outside) < self.least:
            return []
        held = {known[name]["layer"] for name in trainable if known[name]["optimizers"]}
        split = [name for name in outside if known[name]["layer"] in held]
        places = split + [name for name in outside if name not in split]
        stuck = is_stuck(history, 0.1, 16)
        shapes = {name: known[name]["shape"] for name in trainable}
        reached = history.last("gradient/norm").keys()
        is_copy = reached.isdisjoint(outside) and untrained_copies(outside, shapes) >= {*outside}
        partly = f" Of {listing(split)} the same layer is held in part." if split else ""
        steps = history.steps
        return [
            Finding(
                code=self.code,
                severity="note" if is_copy else "bad" if split or stuck else "suspect",
                message=(
                    f"{len(outside)} of {len(trainable)} trainable parameters are in no optimizer: "
                    f"{listing(places)}.{partly}" + (" The loss stands still." if stuck else "")
                ),
                remedy=(
                    "Give them to the optimizer in `configure_optimizers`, or freeze them with "
                    "`requires_grad_(False)`."
                ),
                places=tuple(places),
                steps=(steps[0], steps[-1]),
                evidence=Evidence(
                    float(len(outside)), float(self.least), steps[-1] - steps[0] + 1, len(steps)
                ),
            )
        ]
