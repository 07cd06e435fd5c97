"""`InitScale`: weights that begin far too large or too small for their fan-in (C6)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from lightning_diag.checks.base import Check
from lightning_diag.checks.signal import Signal, share, signal
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.wording import listing, shown

_TORCH = math.sqrt(1 / 3)
"""Gain of PyTorch's own initial weights, U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
_DRAWN = 1.5
"""Times a scheme's own size up to which weights fit it (our choice): small layers scatter."""


class _Layer(NamedTuple):
    weight: str
    gain: float
    """Root mean square of the weights times the root of the fan-in."""
    fits: float
    """Gain that is suggested."""
    growth: float
    """Root mean square of the output over that of the input."""
    is_felt: bool
    """Whether a layer is behind it, and no norm takes the scale away."""
    fan_in: float


@dataclass(frozen=True)
class InitScale(Check):
    """Initial weights that are far too large or too small for the number of their inputs.

    What it sees:
        The gain of each layer that a step on a copy calls: the root mean square of its weights
        times the root of its fan-in. Xavier's is about 1, He's 1.4, PyTorch's own 0.58. Weights
        alone are not enough, since norms and residual branches forgive any scale: a layer is too
        large if its output is also that much larger than its input and no norm follows; layers are
        too small if what differs from sample to sample also fades on its way to the last layer.
        Norms, biases, embeddings, recurrent weights and weights that are all zero do not count, nor
        do last layers: `initial-loss` tells of them; nor what He's scheme gives by the fan-out, as
        torchvision draws its convolutions.

    Why it matters:
        Large weights saturate what follows or make the first losses huge, and a learning rate that
        suits the other layers does not suit this one; small ones let signal and gradients vanish
        (C6, W7, W8).

    What to do:
        Draw the weights by their fan-in: He's for ReLU, Xavier's for tanh, LeCun's for SELU.

    References:
        Glorot and Bengio, Understanding the difficulty of training deep feedforward neural
        networks, AISTATS 2010.
        He et al., Delving deep into rectifiers, ICCV 2015.
    """

    code: ClassVar[str] = "init-scale"
    family: ClassVar[str] = "initialisation"
    needs: ClassVar[tuple[str, ...]] = ("trial",)

    large: float = 4.0
    """Gain from which on a layer is too large, above 0. Our choice, as of the rule of that
    name: eight times the variance of He's weights; trained networks stayed below 3."""
    excess: float = 2.0
    """How many times what is suggested it must be, too, at least 1. Our choice: before a sigmoid
    3.6 is suggested."""
    small: float = 0.5
    """Share of PyTorch's own gain up to which a layer is too small, 0 to 1. Our choice, as of the
    rule."""
    fade: float = 5e-3
    """Share of the differences between samples, from the second layer's input to the last one's, up
    to which the signal fades for plain gradient descent, 0 to 1. Our choice: of 32 networks of two
    to five layers all with 3e-3 or less stood still for 300 steps, and all with 9e-3 learned."""
    adaptive_fade: float = 1e-5
    """The same with Adam and the like, or an optimizer that is not known, at most `fade`. Our
    choice: all of those learned with Adam in 300 steps, but more slowly below 1e-4."""

    def __post_init__(self) -> None:
        self._require("large", least=0.0)
        self._require("excess", least=1.0)
        self._require("small", "fade", "adaptive_fade", least=0.0, most=1.0)
        self._require_order("adaptive_fade", "fade")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        seen = signal(subject)
        layers = _layers(seen)
        if not layers:
            return self.not_observed("no linear or convolution layer with weights of its own ran")
        shapes = {name: held.shape for name, held in subject.parameters.items()}
        large = [
            each
            for each in layers
            if self._is_large(each) and not _is_by_fan_out(each, shapes.get(each.weight, ()))
        ]
        if large:
            return self._too_large(large)
        kept = fading(seen)
        limit = self.adaptive_fade if seen.is_adaptive else self.fade
        last = {each.weight for each in seen.heads()}
        small = [
            each
            for each in layers
            if each.gain <= self.small * min(_TORCH, each.fits) and each.weight not in last
        ]
        return self._too_small(small, kept, limit) if len(small) > 1 and kept <= limit else []

    def _is_large(self, layer: _Layer) -> bool:
        is_large = layer.gain >= max(self.large, self.excess * layer.fits)
        return is_large and layer.growth >= self.large / 2 and layer.is_felt

    def _too_large(self, layers: list[_Layer]) -> list[Finding]:
        layers.sort(key=lambda layer: -layer.gain)
        worst, names = layers[0], [layer.weight for layer in layers]
        others = f" ({listing(names[1:])} too)" if len(names) > 1 else ""
        return self.found(
            "suspect",
            f"The initial weights are too large: in `{worst.weight}` their root mean square times "
            f"the root of the fan-in is {shown(worst.gain)}, and {shown(worst.fits)} fits what "
            f"follows{others}; its output is {shown(worst.growth)} times its input (one batch).",
            "Draw them with `lightning_diag.init_`, which goes by the activation that follows; "
            "`lightning_diag.suggest_init` prints what fits each layer.",
            value=worst.gain,
            threshold=max(self.large, self.excess * worst.fits),
            places=names,
        )

    def _too_small(self, layers: list[_Layer], kept: float, limit: float) -> list[Finding]:
        layers.sort(key=lambda layer: layer.gain / layer.fits)
        worst, names = layers[0], [layer.weight for layer in layers]
        return self.found(
            "suspect",
            f"The initial weights are too small: in `{worst.weight}` their root mean square times "
            f"the root of the fan-in is {shown(worst.gain)}, and {shown(worst.fits)} fits what "
            f"follows ({listing(names[1:])} too); {shown(100 * kept)} % of what differs from "
            f"sample to sample is left at the last layer (it counts up to {shown(100 * limit)} %; "
            "one batch).",
            "Draw them with `lightning_diag.init_`, which goes by the activation that follows; "
            "`lightning_diag.suggest_init` prints what fits each layer.",
            value=kept,
            threshold=limit,
            places=names,
        )


def fading(seen: Signal) -> float:
    """Return which share of the differences between samples is left at the last layer.

    The largest, if there are several last layers; NaN if it cannot be said.
    """
    shares = []
    for head in seen.heads():
        chain = [p.input_spread for p in seen.behind_norms(head) if p.input_spread is not None]
        if chain:
            shares.append(share(head.input_spread, max(chain)))
    known = [each for each in shares if not math.isnan(each)]
    return max(known, default=math.nan) if len(known) == len(shares) else math.nan


def _is_by_fan_out(layer: _Layer, shape: tuple[int, ...]) -> bool:
    """Return whether weights are no larger than He's scheme draws them by their fan-out."""
    if len(shape) < 2:
        return False
    size = layer.gain / math.sqrt(layer.fan_in)
    return size <= _DRAWN * math.sqrt(2 / (shape[0] * math.prod(shape[2:])))


def _layers(seen: Signal) -> list[_Layer]:
    rows = {row.name: row for row in seen.table if row.kind == "weight" and row.fan_in}
    found: dict[str, _Layer] = {}
    for each in seen.passages:
        row, follows = rows.get(each.weight), each.followed
        if row is None or not 0 < row.size < math.inf or each.weight in found:
            continue
        root = math.sqrt(row.fan_in or 0.0)
        fits = (row.std or 1 / root) * root
        is_felt = not (follows.is_normed or follows.is_sum_normed or follows.is_output)
        growth = share(each.std, each.input_std)
        found[each.weight] = _Layer(
            each.weight, row.size * root, fits, growth, is_felt, row.fan_in or 1.0
        )
    return list(found.values())
