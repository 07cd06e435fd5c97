"""`CollapsedActivation`: a signal that is lost on its way through the network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.depth import moved, stands_still
from lightning_diag.rules.reading import has_several_optimizers, is_slow, is_stuck, listing, shown

_KINDS = frozenset({"relu", "leaky", "tanh", "smooth"})
"""Functions that pass a small signal on as it is, so that its size means something."""


@dataclass(frozen=True)
class CollapsedActivation(Rule):
    """Activations whose spread dwindles with depth, until layers see next to nothing.

    What it sees:
        How far the output of each hidden ReLU, tanh, GELU and the like differs from sample to
        sample, in the order of the forward pass: biases differ from unit to unit, and are the same
        for each sample. A call has collapsed if that spread is below `share` of the largest one
        before it, in each of the newest `records` looks (the first four watched steps and each
        16th), and the loss has not halved. Below `faint` that is `suspect`, as it is below `weak`
        if the loss has not fallen in `standstill` steps, though weights have moved by `moved` of
        their size; it is `bad` at any share once the loss has not fallen by a tenth in `patience`
        steps. Exact zeros are dead
        units, which `dead-relu` tells; sigmoids do not count, since around 0 they are centred on a
        half whatever comes in. Where samples were not compared, the spread over all elements stands
        in.

    Why it matters:
        What lies behind sees the same for every sample, and gradients shrink alike on their way
        back (W7, W8).

    What to do:
        Use initial weights that keep the variance (He for ReLU, Xavier for tanh), or normalisation
        between the layers.

    References:
        Glorot and Bengio, Understanding the difficulty of training deep feedforward neural
        networks, AISTATS 2010.
        He et al., Delving Deep into Rectifiers, ICCV 2015, arXiv:1502.01852.
    """

    code: ClassVar[str] = "collapsed-activation"
    needs: ClassVar[tuple[str, ...]] = ("activation/std",)
    uses: ClassVar[tuple[str, ...]] = ("activation/sample_spread", "loss/train", "update/ratio")

    share: float = 0.02
    """Share of an earlier spread below which a call has collapsed, 0 to 1. Our choice: 100 healthy
    runs began with 0.05 or more, weights a tenth of their proper size with less than 0.005."""
    faint: float = 1e-3
    """Share that is told before the loss is known to stand still, at most `share`. Our choice:
    four or five layers with PyTorch's own weights come near 0.02, and Adam trains them."""
    weak: float = 0.01
    """Share that is told if weights move and the loss stands still, 0 to 1, between `faint` and
    `share`. Our choice: half of `share`, since the proof is weaker."""
    standstill: int = 48
    """Steps that the loss then stands still, at least 32. Our choice: most deep networks with
    PyTorch's own weights that learn have begun to by then."""
    moved: float = 0.25
    """Share of its size that some weight must have moved by then, at least 0. Our choice: less may
    be a low learning rate, or its warm-up."""
    records: int = 4
    """Looks in a row that must agree, at least 1. Our choice: four are the first four steps, before
    Adam has had the time to blow small weights up."""
    patience: int = 100
    """Steps without progress before it is `bad`, at least 16. Our choice, as for dead units."""

    def __post_init__(self) -> None:
        self._require("share", "weak", "faint", least=0.0, most=1.0)
        self._require_order("faint", "weak", "share")
        self._require("standstill", least=32, unit="steps")
        self._require("moved", least=0.0)
        self._require("records", least=1, unit="look")
        self._require("patience", least=16, unit="steps")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        if has_several_optimizers(history):
            return self.not_observed("the networks of several optimizers are not told apart")
        calls = _hidden(history)
        if len(calls) < 2:
            return self.not_observed("fewer than two hidden activations were seen")
        metric = _metric(history)
        small = _collapsed(calls, history.last(metric), self.share)
        window = history.window(metric, self.records) if small else []
        if small and len(window) < self.records:
            return self.not_observed(f"fewer than {self.records} steps were looked at")
        for _, seen in window:
            then = _collapsed(calls, seen, self.share)
            small = {place: max(value, then.get(place, 1.0)) for place, value in small.items()}
        places = [place for place, value in small.items() if value < self.share]
        stuck = is_stuck(history, 0.1, self.patience)
        if not places or not is_slow(history):
            return []
        still = stuck or self._stands_still(history, min(small.values()))
        if not still and min(small.values()) >= self.faint:
            return []
        worst, (first, last) = min(places, key=small.__getitem__), (window[0][0], window[-1][0])
        others = [place for place in places if place != worst]
        also = f", as has that at {listing(others)}" if others else ""
        return [
            Finding(
                code=self.code,
                severity="bad" if stuck else "suspect",
                message=(
                    f"The signal at `{worst}` has shrunk to {shown(small[worst])} of its spread "
                    f"before (threshold {self.share:g}), in each of {self.records} looks from step "
                    f"{first:,} to {last:,}{also}." + (" The loss stands still." if still else "")
                ),
                remedy=(
                    "Draw the weights with `lightning_diag.init_`, or with "
                    "`torch.nn.init.kaiming_normal_` for ReLU and `torch.nn.init.xavier_normal_` "
                    "for tanh; or put `torch.nn.BatchNorm1d` or `torch.nn.LayerNorm` between the "
                    "layers."
                ),
                places=tuple(places),
                steps=(first, last),
                evidence=Evidence(small[worst], self.share, last - first + 1, self.records),
            )
        ]

    def _stands_still(self, history: History, share: float) -> bool:
        is_weak = share < self.weak and stands_still(history, self.standstill)
        return is_weak and moved(history) >= self.moved


def _metric(history: History) -> str:
    """Return the name of the best measure of spread there is."""
    by_sample = "activation/sample_spread"
    return by_sample if history.last(by_sample) else "activation/std"


def _hidden(history: History) -> list[str]:
    """Return the calls that another layer follows, in the order of the forward pass."""
    sites: dict[str, Any] = history.meta.get("sites", {})
    order = list(sites.items())
    last = max((i for i, (_, site) in enumerate(order) if site["kind"] == "layer"), default=-1)
    return [place for place, site in order[: max(last, 0)] if site["kind"] in _KINDS]


def _collapsed(calls: list[str], spread: dict[str, float], share: float) -> dict[str, float]:
    """Return the calls whose spread is below a share of an earlier one, and of how much it is."""
    largest, small = 0.0, {}
    for place in calls:
        value = spread.get(place, math.nan)
        if 0 < value < share * largest:
            small[place] = value / largest
        largest = max(largest, value)
    return small
