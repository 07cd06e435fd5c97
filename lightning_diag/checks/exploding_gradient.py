"""`ExplodingGradient`: a signal or gradient that grows from layer to layer (W7)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from lightning_diag.checks.base import Check
from lightning_diag.checks.init_scale import InitScale
from lightning_diag.checks.signal import Signal, share, signal
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.wording import shown


class _Growth(NamedTuple):
    value: float
    first: str
    last: str
    layers: int
    what: str


@dataclass(frozen=True)
class ExplodingGradient(Check):
    """Signal or gradient that grows with each layer, until a step of any size is too large.

    What it sees:
        One step of a copy, without dropout: the input of the last layer over that of the second,
        and the weight gradients of the layers between over the last one's. Only layers behind the
        newest norm count. Nothing where `init-scale` names layers that are too large by themselves.

    Why it matters:
        Growth by a little in each layer is growth by a lot in the end: first losses are huge, and
        no learning rate suits the first and the last layer alike.

    What to do:
        Use initial weights that keep the variance, normalisation, or smaller residual branches.

    References:
        Glorot and Bengio, Understanding the difficulty of training deep feedforward neural
        networks, AISTATS 2010.
        Pascanu et al., On the difficulty of training recurrent neural networks, ICML 2013.
    """

    code: ClassVar[str] = "exploding-gradient"
    family: ClassVar[str] = "initialisation"
    needs: ClassVar[tuple[str, ...]] = ("trial",)

    growth: float = 1000.0
    """Times that a signal or gradient grows by from which on it counts, at least 1. Our choice: the
    healthy networks that were looked at had at most 4, and 50 tanh layers with a gain of 5/3 21."""

    def __post_init__(self) -> None:
        self._require("growth", least=1.0)

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        seen = signal(subject)
        found = [each for each in _growths(seen) if not math.isnan(each.value)]
        if not found:
            return self.not_observed("no layers follow each other without norms between them")
        worst = max(found, key=lambda each: each.value)
        if worst.value < self.growth or InitScale().judge(subject):
            return []
        return self.found(
            "suspect",
            f"{worst.what} is {shown(worst.value)} times as large at `{worst.last}` as at "
            f"`{worst.first}`, {worst.layers} layers apart (it counts from {shown(self.growth)} "
            "on; one batch).",
            "Draw the weights with `lightning_diag.init_`, which keeps the variance from layer to "
            "layer, or put `torch.nn.LayerNorm` between them.",
            value=worst.value,
            threshold=self.growth,
            places=[worst.last, worst.first],
        )


def _growths(seen: Signal) -> list[_Growth]:
    """Return by how much signal and gradient grow before each last layer."""
    found = []
    for head in seen.heads():
        chain = seen.behind_norms(head)
        if not chain:
            continue
        first, layers = chain[0], len(chain)
        value = share(head.input_std, first.input_std)
        found.append(_Growth(value, first.weight, head.weight, layers, "The signal"))
        last = seen.gradients.get(head.weight, 0.0)
        sizes = {each.weight: seen.gradients.get(each.weight, 0.0) for each in chain}
        most = max(sizes, key=sizes.__getitem__)
        value = share(sizes[most], last)
        found.append(_Growth(value, head.weight, most, layers, "The gradient of the weights"))
    return found
