"""`ConstantPrediction`: a network that answers all samples alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.calls import REGRESSION, looks, loss_calls
from lightning_diag.rules.reading import has_several_optimizers, shown

_BOUNDED = frozenset({"softmax", "sigmoid", "tanh", "hardsigmoid"})


@dataclass(frozen=True)
class ConstantPrediction(Rule):
    """A network whose predictions do not depend on its input.

    What it sees:
        The spread of each output over the samples of a step: below `scores` for the scores of
        classes, or below `share` of the spread of the targets for a regression, in each of
        `records` looks, the newest at step `patience` or later. `bad` if all samples get exactly
        the same, or nearly: a hundredth of that. Targets that hardly vary are left out, and so
        are networks with several optimizers, whose players may well agree.

    Why it matters:
        The loss is that of guessing with the frequencies of the targets; what comes before the
        output has no say, because units are dead or saturated, gradients do not arrive, or inputs
        are all alike.

    What to do:
        Look at the findings about activations and gradients; if there are none, at the batches that
        the network is given.

    References:
        Karpathy, A Recipe for Training Neural Networks, 2019 (input-independent baseline).
    """

    code: ClassVar[str] = "constant-prediction"
    needs: ClassVar[tuple[str, ...]] = ("output/sample_spread", "output/std")
    uses: ClassVar[tuple[str, ...]] = (
        "class/majority_share",
        "target/sample_spread",
        "target/std",
    )

    scores: float = 0.005
    """Spread of the scores of classes over samples that counts as none, 0 or more, in units of the
    logarithm of a probability. Our choice: no probability then differs by more than half a percent;
    healthy networks on a plateau had four times that."""
    share: float = 0.005
    """Spread of a regression's output over that of its targets that counts as none, 0 to 1. Our
    choice: predictions that explain 1 % of the variance spread twenty times as much."""
    majority: float = 0.95
    """Share of the most frequent class from which on targets hardly vary, 0 to 1. Our choice: one
    answer is then right for nearly all."""
    patience: int = 60
    """Steps before a constant counts, at least 0. Our choice: outputs of healthy networks that
    start at zero differ after a few dozen."""
    records: int = 4
    """Looks in a row that must agree, at least 1. Our choice: they span 48 steps or more."""

    def __post_init__(self) -> None:
        self._require("scores", least=0.0)
        self._require("share", "majority", least=0.0, most=1.0)
        self._require("patience", least=0, unit="steps")
        self._require("records", least=1, unit="look")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        if has_several_optimizers(history):
            return self.not_observed("several optimizers train players that may well agree")
        spread = history.last("output/sample_spread")
        if not spread:
            return self.not_observed("no step showed two samples or more")
        if history.steps[-1] < self.patience:
            return []
        size = history.last("output/std")
        for place, share in spread.items():
            limit = self._limit(history, place)
            if limit is None or not share * size.get(place, 0.0) < limit:
                continue
            seen = self._spreads(history, place)
            if len(seen) == self.records and max(v for _, v in seen) < limit:
                return [self._found(place, seen, limit)]
        return []

    def _limit(self, history: History, place: str) -> float | None:
        """Return the spread that counts as none, None where a constant may be right."""
        call = loss_calls(history).get(place, {})
        if call.get("function") in REGRESSION:
            spread = history.last("target/sample_spread").get(place, 0.0)
            limit = self.share * spread * history.last("target/std").get(place, 0.0)
            return limit if limit > 0 else None
        if not call.get("classes") or call["activation"] in _BOUNDED:
            return None  # what is bounded spreads little, and is another finding
        share = history.last("class/majority_share").get(place)
        return None if share is None or share >= self.majority else self.scores

    def _spreads(self, history: History, place: str) -> list[tuple[int, float]]:
        shares = looks(history, "output/sample_spread", place, self.records)
        sizes = dict(looks(history, "output/std", place, self.records))
        return [(step, share * sizes[step]) for step, share in shares if step in sizes]

    def _found(self, place: str, seen: list[tuple[int, float]], limit: float) -> Finding:
        (first, _), (last, now) = seen[0], seen[-1]
        worst = max(value for _, value in seen)
        is_exact = worst < limit / 100
        return Finding(
            code=self.code,
            severity="bad" if is_exact else "suspect",
            message=(
                f"At `{place}` all samples get {'the same' if is_exact else 'nearly the same'} "
                f"prediction: over samples it spreads by {shown(now)} (threshold {shown(limit)}, "
                f"in each of {len(seen)} looks from step {first:,} to {last:,})."
            ),
            remedy=(
                "Check that inputs reach the network and differ, then look at dead or saturated "
                "units and at the gradients of the first layers."
            ),
            places=(place,),
            steps=(first, last),
            evidence=Evidence(worst, limit, last - first + 1, len(seen)),
        )
