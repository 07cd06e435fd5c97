"""`UnscaledTarget`: regression targets far from what a network gives at first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.calls import REGRESSION, first_look, looks, loss_calls
from lightning_diag.rules.reading import shown

_NATURAL = 0.3
"""Size of a network's first outputs, if they are smaller still: PyTorch's initial weights give 0.1
to 0.5, and a last layer that starts at zero will be there soon."""

_USUAL = 1.0
"""Size of a network's first outputs, if they are larger still: then inputs or initial weights are
to blame, and not the targets (our choice: those of scaled inputs and He's weights give 1)."""


@dataclass(frozen=True)
class UnscaledTarget(Rule):
    """Regression targets that are far larger, smaller or farther from 0 than first predictions.

    What it sees:
        Mean and spread of the targets against those of the first predictions: mean or spread
        `factor` times as large as these, or a `factor`-th of them (of 1, if they are larger:
        outputs beyond that come from inputs or weights that are too large). That alone is no
        finding, since networks can learn it: after `patience` steps the squared error must also be
        more than `unexplained` of the variance of the targets, in each of `records` looks.

    Why it matters:
        The first thousands of steps go into the offset and the scale, at gradients that are as
        many times too large or too small; a learning rate for one is wrong for the other.

    What to do:
        Subtract the mean of the training targets and divide by their standard deviation, and undo
        that where predictions are used; or set the last bias to the mean.

    References:
        LeCun et al., Efficient BackProp, 1998, section 4.5 (target values).
        Karpathy, A Recipe for Training Neural Networks, 2019 (initialise the last bias well).
    """

    code: ClassVar[str] = "unscaled-target"
    needs: ClassVar[tuple[str, ...]] = ("target/std", "output/std")
    uses: ClassVar[tuple[str, ...]] = ("output/mean", "target/mean", "target/unexplained_ratio")

    factor: float = 20.0
    """Times that targets must differ from first predictions in size, at least 1. Our choice:
    healthy regressions of the test generators stayed within 10."""
    unexplained: float = 0.5
    """Squared error over variance of the targets that counts, 0 or more; 1 is as good as their
    mean. Our choice: a network that explains half is on its way."""
    patience: int = 48
    """Steps before that is asked for, at least 0. Our choice: scaled targets are half explained by
    then if they can be."""
    records: int = 2
    """Looks in a row that must agree, at least 1. Our choice: each is of a whole batch."""

    def __post_init__(self) -> None:
        self._require("factor", least=1.0)
        self._require("unexplained", least=0.0)
        self._require("patience", least=0, unit="steps")
        self._require("records", least=1, unit="look")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        if history.steps[-1] < self.patience:
            return []
        places = [
            place
            for place, call in loss_calls(history).items()
            if call["function"] in REGRESSION and place in history.last("target/std")
        ]
        if not places:
            return self.not_observed("no regression loss was seen")
        newest = history.last("target/unexplained_ratio")
        for place in places:
            if newest.get(place, 0.0) <= self.unexplained:
                continue
            off = self.off(history, place)
            seen = looks(history, "target/unexplained_ratio", place, self.records)
            if off is None or len(seen) < self.records or seen[0][0] < self.patience / 2:
                continue
            if not min(value for _, value in seen) <= self.unexplained:
                return [self._found(history, place, off, seen)]
        return []

    def off(self, history: History, place: str) -> float | None:
        """Return how many times targets are off at first, None if that is not known or usual."""
        target, spread, mean, std = (
            first_look(history, metric, place)
            for metric in ("target/mean", "target/std", "output/mean", "output/std")
        )
        own, size = math.hypot(mean, std), math.hypot(target, spread)
        if not (math.isfinite(own) and 0 < size < math.inf):
            return None
        far = math.hypot(target - mean, spread)
        off = max(far / max(own, _NATURAL), min(own, _USUAL) / size)
        return off if off >= self.factor else None

    def _found(
        self, history: History, place: str, off: float, seen: list[tuple[int, float]]
    ) -> Finding:
        mean, spread = (
            first_look(history, metric, place) for metric in ("target/mean", "target/std")
        )
        own = first_look(history, "output/std", place)
        last, share = seen[-1]
        times = f"{shown(share)} times" if math.isfinite(share) else "infinitely many times"
        return Finding(
            code=self.code,
            severity="suspect",
            message=(
                f"The targets of `{place}` have mean {shown(mean)} and standard deviation "
                f"{shown(spread)}, while first predictions spread by {shown(own)}: "
                f"{shown(off)} times off (threshold {self.factor:g}). At step {last:,} the squared "
                f"error is {times} the variance of the targets, where their mean has "
                f"1 ({len(seen)} looks)."
            ),
            remedy=(
                "Standardise the targets with mean and standard deviation of the training set, for "
                "example by `sklearn.preprocessing.StandardScaler`, and scale predictions back."
            ),
            places=(place,),
            steps=(history.steps[0], last),
            evidence=Evidence(off, self.factor, last + 1, len(seen)),
        )
