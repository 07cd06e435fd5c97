"""`LearningRateTooHigh`: a learning rate near that at which a range test diverges (L1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.checks.base import Check, Level
from lightning_diag.checks.pace import estimate_of, in_time
from lightning_diag.checks.range import RANGE_STEPS, diverging_rate, range_of
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.wording import shown


@dataclass(frozen=True)
class LearningRateTooHigh(Check):
    """A learning rate near or above that at which a range test diverges.

    What it sees:
        A range test on a copy: `lightning_diag.lr_range_test`, a hundred steps with learning rates
        that rise from 1e-7 to 10. The learning rate that the first step will take is compared with
        the lowest one at which the smoothed loss was back where it began. It counts from
        `fraction` of that on. A curve without a clear fall and rise says nothing. Nor does one of
        manual optimisation, where several losses pull at each other. A rate that is too low is
        no finding here: fine-tuning and warm-ups begin with low ones on purpose.

    Why it matters:
        Steps that overshoot throw the weights to where the loss is worse; units die or saturate,
        and that outlasts the learning rate (W5, W6, W10).

    What to do:
        Take one of the rates that the test suggests, or warm the learning rate up to it.

    References:
        Smith, Cyclical learning rates for training neural networks, 2017, arXiv:1506.01186.
    """

    code: ClassVar[str] = "learning-rate-too-high"
    level: ClassVar[Level] = "named"
    family: ClassVar[str] = "lr-range"
    needs: ClassVar[tuple[str, ...]] = ("trial", "optimizers")

    fraction: float = 0.3
    """Share of the diverging learning rate that counts, 0 or more. Our choice: healthy runs of the
    clinic took a tenth at most; rates that rise from step to step diverge late."""

    seconds: float = 30.0
    """Seconds that the range test may take, 0 or more; a longer one is not run. Our choice: half of
    what all checks may take together."""

    def __post_init__(self) -> None:
        self._require("fraction", least=0.0)
        self._require("seconds", least=0.0, unit="seconds")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        if not subject.module.automatic_optimization:
            return self.not_observed("with manual optimisation one curve may be of several losses")
        needed = RANGE_STEPS * estimate_of(subject).step_seconds
        left = min(self.seconds, subject.time_left)
        if needed > left:
            times = f"{in_time(needed)}, and {in_time(max(left, 0.0))} may be taken"
            return self.not_observed(f"a range test takes about {times}: call `lr_range_test`")
        result = range_of(subject)
        diverging = diverging_rate(result.test)
        if diverging is None:
            reason = result.test.reason or "the loss stayed low at all learning rates"
            return self.not_observed(f"the range test shows no divergence: {reason}")
        if result.lr < self.fraction * diverging:
            return []
        valley = result.test.lr
        suggested = "" if valley is None else f"; it suggests {shown(valley)}"
        return self.found(
            "suspect",
            f"The first learning rate is {shown(result.lr)}, and a range test of "
            f"{len(result.test.losses)} steps diverges at {shown(diverging)} (it counts from "
            f"{self.fraction:g} of that){suggested}.",
            "Take what `lightning_diag.lr_range_test` suggests, or reach the rate by "
            "`torch.optim.lr_scheduler.LinearLR`.",
            value=result.lr,
            threshold=self.fraction * diverging,
            window=len(result.test.losses),
        )
