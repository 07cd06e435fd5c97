"""`RankDivergence`: copies of the model that drift apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.reading import listing, shown


@dataclass(frozen=True)
class RankDivergence(Rule):
    """Parameters that should be the same on all ranks, and are not.

    What it sees:
        The largest difference over ranks of each parameter's sum, against its norm. With DDP every
        rank takes the same step from the same weights, so it is exactly 0 on machines of one kind.
        Sharded parameters, and strategies that let ranks drift on purpose, are left out.

    Why it matters:
        Each rank trains a model of its own on its part of the data, and only the first is saved
        (P1). DDP averages the parameters alone that required gradients when it wrapped the model.

    What to do:
        Let every parameter that will ever be trained require gradients when the fit begins, and
        freeze by a learning rate of 0 instead; or start a new fit after unfreezing. Never step, or
        draw weights, on one rank only.

    References:
        PyTorch documentation, DistributedDataParallel.
        Lightning issue 20340, on unfreezing under DDP.
    """

    code: ClassVar[str] = "rank-divergence"
    uses: ClassVar[tuple[str, ...]] = ("setup/rank_difference",)

    difference: float = 1e-5
    """Relative difference from which on ranks have diverged, 0 or more. Our choice: a hundred times
    the rounding of sums on unlike machines; one step of its own moves a weight by 1e-3."""

    def __post_init__(self) -> None:
        self._require("difference", least=0.0)

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        newest = history.last("setup/rank_difference")
        if not newest:
            return self.not_observed("there is one rank, or ranks hold different parts")
        apart = [name for name, value in newest.items() if value > self.difference]
        if not apart:
            return []
        places = sorted(apart, key=lambda name: -newest[name])
        worst, steps = places[0], []
        for step, seen in history.window("setup/rank_difference", 16):
            if max(seen.get(name, 0.0) for name in places) > self.difference:
                steps.append(step)
        return [
            Finding(
                code=self.code,
                severity="bad",
                message=(
                    f"Ranks hold different weights: {listing(places)} "
                    f"({len(places)} of {len(newest)} parameters); sums over `{worst}` differ by "
                    f"{shown(newest[worst])} of its norm at step {steps[-1]:,} (threshold "
                    f"{shown(self.difference)})."
                ),
                remedy=(
                    "Let all parameters require gradients when the fit begins, and freeze them by "
                    "a learning rate of 0; draw weights alike on all ranks with "
                    "`pytorch_lightning.seed_everything`."
                ),
                places=tuple(places),
                steps=(steps[0], steps[-1]),
                evidence=Evidence(
                    newest[worst], self.difference, steps[-1] - steps[0] + 1, len(steps)
                ),
            )
        ]
