"""`CollapsedActivation`: a signal that is lost on its way through the network (W7, W8)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.checks.base import Check
from lightning_diag.checks.init_scale import InitScale, fading
from lightning_diag.checks.signal import Signal, signal
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.wording import shown


@dataclass(frozen=True)
class CollapsedActivation(Check):
    """Activations whose spread dwindles with depth, until the last layer sees next to nothing.

    What it sees:
        One step of a copy, without dropout: how far the inputs of layers differ from sample to
        sample. What is left of it at the last layer, of the largest before it: from the second
        layer on, since the data have any scale, and behind the newest norm, since that takes any
        scale away. It says too what is left of the weights' gradients on the way back. Nothing
        where `init-scale` names the layers that do it, and nothing after fewer than three layers.

    Why it matters:
        The last layer sees the same for every sample, and gradients shrink alike on their way back.
        With plain SGD such a network stands still; Adam divides the gradient's size away, and needs
        far longer (W7, W8).

    What to do:
        Use initial weights that keep the variance, or normalisation between the layers.

    References:
        Glorot and Bengio, Understanding the difficulty of training deep feedforward neural
        networks, AISTATS 2010.
        He et al., Delving Deep into Rectifiers, ICCV 2015, arXiv:1502.01852.
    """

    code: ClassVar[str] = "collapsed-activation"
    family: ClassVar[str] = "initialisation"
    needs: ClassVar[tuple[str, ...]] = ("trial",)

    share: float = 1e-3
    """Share that is left below which plain gradient descent stands still, 0 to 1. Our choice: six
    ReLU layers with PyTorch's own weights keep 9e-3 and learn, ten keep 2.4e-4; the latter did not
    learn with SGD in 400 steps, nor did eight GELU layers with 2e-4."""
    adaptive_share: float = 1e-5
    """The same with Adam and the like, or an optimizer that is not known, at most `share`. Our
    choice: twelve ReLU layers (3.9e-5) learned with Adam, in four times the steps; 24 tanh layers
    (2.5e-6) did not."""

    def __post_init__(self) -> None:
        self._require("share", "adaptive_share", least=0.0, most=1.0)
        self._require_order("adaptive_share", "share")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        seen = signal(subject)
        kept = fading(seen)
        if math.isnan(kept):
            return self.not_observed("no layers follow each other without norms between them")
        limit = self.adaptive_share if seen.is_adaptive else self.share
        if kept >= limit or _is_told(subject):
            return []
        chains = [(head, seen.behind_norms(head)) for head in seen.heads()]
        head, chain = max(chains, key=lambda pair: len(pair[1]))
        kind = "an optimizer that adapts" if seen.is_adaptive else "plain gradient descent"
        return self.found(
            "suspect",
            f"Of what differs from sample to sample in the input of `{chain[0].weight}`, "
            f"{shown(100 * kept)} % is left at `{head.weight}`, {len(chain)} layers on (it counts "
            f"below {shown(100 * limit)} % with {kind}; one batch){_back(seen)}.",
            "Draw the weights with `lightning_diag.init_`, which keeps the variance from layer to "
            "layer, or put `torch.nn.BatchNorm1d` or `torch.nn.LayerNorm` between the layers.",
            value=kept,
            threshold=limit,
            places=[head.weight, *(each.weight for each in reversed(chain))],
        )


def _is_told(subject: Subject) -> bool:
    """Whether `init-scale` speaks of it."""
    return isinstance(found := InitScale().judge(subject), list) and bool(found)


def _back(seen: Signal) -> str:
    """Say what is left of the gradient at the first layer, as the end of a sentence."""
    weights = list(dict.fromkeys(each.weight for each in seen.passages))
    sizes = [seen.gradients[name] for name in weights if name in seen.gradients]
    if len(sizes) < 2 or max(sizes) <= 0 or sizes[0] <= 0:
        return ""
    return f"; the first layer's gradient is {shown(sizes[0] / max(sizes))} of the largest one"
