"""`SaturatedActivation`: hidden sigmoids and tanhs that sit where they are flat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.reading import (
    has_several_optimizers,
    is_slow,
    is_stuck,
    listing,
    parameters,
)

_FUNCTIONS = frozenset({"sigmoid", "tanh", "softsign"})


@dataclass(frozen=True)
class SaturatedActivation(Rule):
    """Hidden sigmoids and tanhs most of whose inputs lie where the function is flat.

    What it sees:
        At each hidden call of a sigmoid, tanh or softsign the share of inputs at which it is flat,
        judged by input and function, never on a plain layer. A call counts if the share was at
        least `fraction` in each of the newest `records` watched steps, or of half as many that
        span `span` steps. `bad` if the loss has not fallen by a tenth in `patience` steps, a note
        if it has halved. Outputs of a network are
        left out: a trained sigmoid output should be near 0 or 1. So are softmax, and functions
        that clip by design, as ReLU6 and Hardtanh do.

    Why it matters:
        A saturated unit passes no gradient on, so what lies before it does not train (W3, W8).

    What to do:
        Scale the inputs to mean 0 and standard deviation 1, use Xavier's initial weights, lower
        the learning rate if it came later, or put batch norm before the function.

    References:
        LeCun et al., Efficient BackProp, 1998.
        Glorot and Bengio, Understanding the difficulty of training deep feedforward neural
        networks, AISTATS 2010.
    """

    code: ClassVar[str] = "saturated-activation"
    needs: ClassVar[tuple[str, ...]] = ("activation/saturated_fraction",)
    uses: ClassVar[tuple[str, ...]] = ("loss/train",)

    fraction: float = 0.5
    """Share of saturated inputs from which on a call counts, 0 to 1. SageMaker Debugger and
    DeepDiagnosis use 50 %; healthy runs stayed below 24 %."""
    records: int = 6
    """Watched steps in a row that must agree, at least 1. Our choice: six span the first eight
    steps, in which a bad start that repairs itself does so."""
    span: int = 64
    """Steps that half as many watched steps must span to be enough, at least 1. Our choice: later
    in a run looks are far apart, and what lasts that long is no fluctuation."""
    patience: int = 100
    """Steps without progress before it is `bad`, at least 16. Our choice: some runs whose first
    large steps saturate half of a layer learn well all the same."""

    def __post_init__(self) -> None:
        self._require("fraction", least=0.0, most=1.0)
        self._require("records", least=1, unit="watched step")
        self._require("span", least=1, unit="step")
        self._require("patience", least=16, unit="steps")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        hidden = hidden_calls(history)
        if not hidden:
            return self.not_observed("no hidden sigmoid or tanh was seen")
        window = history.window("activation/saturated_fraction", self.records)
        if len(window) < self.records:
            return self.not_observed(f"fewer than {self.records} steps were watched")
        half = window[-((self.records + 1) // 2) :]
        if half[-1][0] - half[0][0] >= self.span:
            window = half
        least = {
            place: min(seen.get(place, 0.0) for _, seen in window)
            for place in hidden
            if window[-1][1].get(place, 0.0) >= self.fraction
        }
        places = sorted(
            (place for place, share in least.items() if share >= self.fraction),
            key=lambda place: -least[place],
        )
        if not places:
            return []
        worst, (first, last) = places[0], (window[0][0], window[-1][0])
        stuck, slow = is_stuck(history, 0.1, self.patience), is_slow(history)
        others = f", as well as {listing(places[1:])}" if len(places) > 1 else ""
        return [
            Finding(
                code=self.code,
                severity="bad" if stuck else "suspect" if slow else "note",
                message=(
                    f"At `{worst}` at least {least[worst]:.0%} of the inputs lie where the "
                    f"function is flat (threshold {self.fraction:.0%}) in each of the "
                    f"{len(window)} watched steps from {first:,} to {last:,}{others}."
                    + (" The loss stands still." if stuck else "")
                ),
                remedy=(
                    "Scale inputs to mean 0 and standard deviation 1, use "
                    "`torch.nn.init.xavier_normal_`, or put `torch.nn.BatchNorm1d` before it; "
                    "if it came during training, lower the learning rate."
                ),
                places=tuple(places),
                steps=(first, last),
                evidence=Evidence(least[worst], self.fraction, last - first + 1, len(window)),
            )
        ]


def hidden_calls(history: History) -> list[str]:
    """Return the calls with two flat ends that another layer of the same network follows.

    With several optimizers, what each of them trains is a network with an output of its own.
    """
    sites: dict[str, Any] = history.meta.get("sites", {})
    trained_by: dict[str, int] = {}
    if has_several_optimizers(history):
        for known in parameters(history).values():
            trained_by[known["layer"]] = next(iter(known["optimizers"]), -1)
    network, calls, last_layer = 0, [], {}
    for position, (place, site) in enumerate(sites.items()):
        if site["kind"] == "layer":
            network = trained_by.get(site["module"], 0)
            last_layer[network] = position
        elif site["function"] in _FUNCTIONS:
            calls.append((place, position, network))
    return [place for place, position, network in calls if position < last_layer.get(network, -1)]
