"""`NotZeroCentred`: hidden layers whose inputs all have one sign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.reading import has_several_optimizers, is_stuck, listing, shown

_POSITIVE = frozenset({"sigmoid", "hardsigmoid", "softplus"})
_NEUTRAL = frozenset({"layer", "norm", "loss", "softmax"})


@dataclass(frozen=True)
class NotZeroCentred(Rule):
    """Hidden sigmoids far from zero on average, in a network that learns slowly.

    What it sees:
        The mean of each hidden sigmoid, hard sigmoid or softplus against its standard deviation, in
        networks in which such functions are the rule. A call counts if its mean was `ratio`
        standard deviations or more from 0 in each of the newest `records` watched steps. It is a
        note, and only while the loss has not halved in `patience` steps: many networks learn well
        so. Gates that multiply, beside other activations, do not count; nor does ReLU, which puts
        out zeros.

    Why it matters:
        If all inputs of a layer are positive, the gradients of a unit's weights share one sign,
        and steps zig-zag (W4).

    What to do:
        Use tanh, GELU or ReLU, or put batch norm before the next layer.

    References:
        LeCun et al., Efficient BackProp, 1998.
    """

    code: ClassVar[str] = "not-zero-centred"
    needs: ClassVar[tuple[str, ...]] = ("activation/mean", "activation/std")
    uses: ClassVar[tuple[str, ...]] = ("loss/train",)

    ratio: float = 2.0
    """Mean over standard deviation that counts, 0 or more. Our choice: a ReLU of a centred input
    has 0.7, sigmoids that learn came down to 1.5 to 1.8."""
    records: int = 8
    """Watched steps in a row that must agree, at least 1. Our choice: it is no hurry."""
    patience: int = 200
    """Steps in which the loss must have halved for silence, at least 16. Our choice: twice what
    other rules wait, since it is a note."""

    def __post_init__(self) -> None:
        self._require("ratio", least=0.0)
        self._require("records", least=1, unit="watched step")
        self._require("patience", least=16, unit="steps")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        if has_several_optimizers(history):
            return self.not_observed("several optimizers share one loss curve")
        calls = _calls(history)
        if not calls:
            return self.not_observed("no network of hidden sigmoids was seen")
        if len(history) < self.records:
            return self.not_observed(f"fewer than {self.records} steps were watched")
        if not is_stuck(history, 0.5, self.patience):
            return []
        means = history.window("activation/mean", self.records)
        spreads = dict(history.window("activation/std", self.records))
        least = {
            place: min(_offset(seen, spreads.get(step, {}), place) for step, seen in means)
            for place in calls
        }
        places = [place for place in calls if least[place] >= self.ratio]
        if not places:
            return []
        worst, first, last = max(places, key=least.__getitem__), means[0][0], means[-1][0]
        return [
            Finding(
                code=self.code,
                severity="note",
                message=(
                    f"The outputs of {listing(places)} are not centred on zero: that of `{worst}` "
                    f"is at least {shown(least[worst])} standard deviations off (threshold "
                    f"{self.ratio:g}) in each of the {self.records} watched steps from {first:,} "
                    f"to {last:,}, and the loss has not halved."
                ),
                remedy=(
                    "Use `torch.nn.Tanh`, `torch.nn.GELU` or `torch.nn.ReLU`, or put "
                    "`torch.nn.BatchNorm1d` before the next layer."
                ),
                places=tuple(places),
                steps=(first, last),
                evidence=Evidence(least[worst], self.ratio, last - first + 1, self.records),
            )
        ]


def _calls(history: History) -> list[str]:
    """Return the hidden calls of positive functions that no norm follows, if they are the rule."""
    order: list[tuple[str, Any]] = list(history.meta.get("sites", {}).items())
    last = max((i for i, (_, site) in enumerate(order) if site["kind"] == "layer"), default=0)
    positive, others = [], 0
    for i, (place, site) in enumerate(order[:last]):
        if site["function"] in _POSITIVE:
            if order[i + 1][1]["kind"] != "norm":
                positive.append(place)
        elif site["kind"] not in _NEUTRAL:
            others += 1
    return positive if len(positive) > others else []


def _offset(mean: dict[str, float], spread: dict[str, float], place: str) -> float:
    deviation = spread.get(place, 0.0)
    return abs(mean.get(place, 0.0)) / deviation if deviation > 0 else 0.0
