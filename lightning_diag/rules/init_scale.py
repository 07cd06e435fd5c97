"""`InitScale`: weights that begin far too large or too small for their fan-in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, NamedTuple
from weakref import WeakKeyDictionary

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.reading import depth_profile, is_stuck, listing, parameters, shown

_TORCH = math.sqrt(1 / 3)
"""Gain of PyTorch's own initial weights, U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""


class _Layer(NamedTuple):
    weight: str
    gain: float
    """Root mean square of the weights times the root of the fan-in."""
    least: float
    """The smaller of the gains of Xavier's and PyTorch's weights."""
    growth: float
    """Standard deviation of the output over that of the input."""
    behind: str | None
    """The activation that follows, if one does before the next layer."""


class _Case(NamedTuple):
    what: str
    layers: list[_Layer]
    value: float
    threshold: float
    signal: str


_SEEN: WeakKeyDictionary[History, dict[Any, _Case | str | None]] = WeakKeyDictionary()
"""What rules have said of the first step of a history, by rule and number of call sites."""


@dataclass(frozen=True)
class InitScale(Rule):
    """Initial weights that are far too large or too small for the number of their inputs.

    What it sees:
        The gain of each layer in the first watched step: the root mean square of its weights times
        the root of its fan-in. Xavier's is about 1, He's 1.4, PyTorch's own 0.58. Weights alone
        are not enough, since norms and residual branches forgive any scale: a layer is too large if
        its output is also that much larger than its input and nothing normalises it again, and
        layers are too small if the signal also fades from the first activation to the last. Norms,
        biases, embeddings and weights that are all zero do not count. `bad` if the loss then
        stands still.

    Why it matters:
        Large weights saturate what follows or make the first losses huge, and a learning rate that
        suits the other layers does not suit this one; small ones let signal and gradients vanish
        (C6, W7, W8).

    What to do:
        Draw the weights by their fan-in: He's for ReLU, Xavier's for tanh and sigmoid, or leave
        PyTorch's own.

    References:
        Glorot and Bengio, Understanding the difficulty of training deep feedforward neural
        networks, AISTATS 2010.
        He et al., Delving deep into rectifiers, ICCV 2015.
    """

    code: ClassVar[str] = "init-scale"
    needs: ClassVar[tuple[str, ...]] = ("weight/std", "activation/variance_gain")
    uses: ClassVar[tuple[str, ...]] = (
        "weight/mean",
        "activation/std",
        "activation/saturated_fraction",
        "loss/train",
    )

    large: float = 4.0
    """Gain from which on a layer is too large, above 0. Our choice: eight times the variance of
    He's weights; trained networks stayed below 3."""
    small: float = 0.5
    """Share of the smaller of Xavier's and PyTorch's gain up to which a layer is too small, 0 to 1.
    Our choice: alone it says little, five such layers lose 97 % of the signal."""
    fade: float = 0.05
    """Standard deviation of the last hidden activation over that of the first up to which the
    signal fades, 0 to 1. Our choice: ten ReLU layers with Xavier's weights keep as much."""
    saturated: float = 0.3
    """Share of flat inputs from which on the activation behind a large layer suffers, 0 to 1. Our
    choice: with Xavier's weights it is below 5 %."""
    loud: float = 2.0
    """Standard deviation of an activation from which on nothing has normalised its input, above 0.
    Our choice: behind a norm layer it is 0.6."""
    patience: int = 50
    """Steps after which a loss that has not moved makes it bad, at least 1 (our choice)."""

    def __post_init__(self) -> None:
        self._require("large", "loud", least=0.0)
        self._require("small", "fade", "saturated", least=0.0, most=1.0)
        self._require("patience", least=1, unit="step")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        first = next(islice(history.records(), 1))
        if first.step > 0:
            return self.not_observed("the first step was not watched")
        if not self._is_suspicious(history, first.values):
            return []
        case = self._case(history, first.values)
        if isinstance(case, str):
            return self.not_observed(case)
        if case is None:
            return []
        stuck = is_stuck(history, 0.05, self.patience)
        steps = history.steps
        worst = case.layers[0]
        others = f" ({listing([layer.weight for layer in case.layers[1:]])} too)"
        return [
            Finding(
                code=self.code,
                severity="bad" if stuck else "suspect",
                message=(
                    f"The initial weights are too {case.what}: in `{worst.weight}` their root mean "
                    f"square times the root of the fan-in is {shown(worst.gain)} (Xavier: 1, He: "
                    f"1.4){others if len(case.layers) > 1 else ''}, and {case.signal}."
                    + (" The loss stands still." if stuck else "")
                ),
                remedy=(
                    "Draw them with `lightning_diag.init_`; or with "
                    "`torch.nn.init.kaiming_normal_` before ReLU, and with "
                    "`torch.nn.init.xavier_normal_` before tanh or sigmoid and in the last layer."
                ),
                places=tuple(layer.weight for layer in case.layers),
                steps=(steps[0], steps[-1]),
                evidence=Evidence(case.value, case.threshold, 1, 1),
            )
        ]

    def _case(self, history: History, values: Any) -> _Case | str | None:
        """Return what is wrong with the first step, or what is missing; it never changes."""
        key = self, len(history.meta.get("sites", {}))
        known = _SEEN.setdefault(history, {})
        if key not in known:
            layers = _layers(history, values)
            missing = "no linear or convolution layer was seen in the first step"
            found = self._too_large(layers, values) or self._too_small(layers, values)
            known[key] = found if layers else missing
        return known[key]

    def _is_suspicious(self, history: History, values: Any) -> bool:
        """Whether a closer look is worth its time: some gain is large, or small where signal fades.

        True also where nothing is known.
        """
        known = parameters(history)
        mean, gains = values.get("weight/mean", {}), []
        for name, std in values.get("weight/std", {}).items():
            inputs = math.prod(known[name]["shape"][1:])
            gains.append(math.hypot(std, mean.get(name, 0.0)) * math.sqrt(inputs))
        spreads = values.get("activation/std", {}).values()
        fades = min(spreads, default=0.0) <= self.fade * max(spreads, default=0.0)
        is_small = fades and min(gains, default=0.0) <= self.small * _TORCH
        return is_small or max(gains, default=math.inf) >= self.large

    def _too_large(self, layers: list[_Layer], values: Any) -> _Case | None:
        found = [
            layer
            for layer in layers
            if layer.gain >= self.large
            and layer.growth >= self.large / 2
            and self._is_felt(layer, values)
        ]
        if not found:
            return None
        found.sort(key=lambda layer: -layer.gain)
        worst = found[0]
        signal = f"its output is {shown(worst.growth)} times its input"
        return _Case("large", found, worst.gain, self.large, signal)

    def _is_felt(self, layer: _Layer, values: Any) -> bool:
        """Whether no norm between the layer and the activation behind it takes the scale away."""
        flat = values.get("activation/saturated_fraction", {}).get(layer.behind)
        spread = values.get("activation/std", {}).get(layer.behind)
        if layer.behind is None or (flat is None and spread is None):
            return True
        return (flat or 0.0) >= self.saturated or (spread or 0.0) >= self.loud

    def _too_small(self, layers: list[_Layer], values: Any) -> _Case | None:
        found = [layer for layer in layers if layer.gain <= self.small * layer.least]
        if len(found) < 2:
            return None
        spreads = values.get("activation/std", {})
        chain = [spreads[layer.behind] for layer in layers if layer.behind in spreads]
        if len(chain) < 2 or not chain[-1] <= self.fade * chain[0]:
            return None
        found.sort(key=lambda layer: layer.gain / layer.least)
        share = chain[-1] / chain[0] if chain[0] > 0 else 0.0
        signal = f"{shown(100 * share)} % of the first activation's spread is left at the last"
        return _Case("small", found, share, self.fade, signal)


def _layers(history: History, values: Any) -> list[_Layer]:
    """Return what is known of each layer in the first step, in the order of the forward pass."""
    sites = history.meta.get("sites", {})
    calls: dict[str, str] = {}
    behind: dict[str, str] = {}
    newest = ""
    for place, site in sites.items():
        if site["kind"] == "layer":
            newest = place
            calls.setdefault(site["module"], place)
        elif newest and newest not in behind and site["kind"] != "softmax":
            behind[newest] = place
    known = parameters(history)
    std, mean = values.get("weight/std", {}), values.get("weight/mean", {})
    growth = values.get("activation/variance_gain", {})
    found = []
    for name in [name for chain in depth_profile(history) for name in chain]:
        place = calls.get(known[name]["layer"], "")
        size = math.hypot(std.get(name, 0.0), mean.get(name, 0.0))
        if place in growth and 0 < size < math.inf:
            shape = known[name]["shape"]
            inputs, field = math.prod(shape[1:]), math.prod(shape[2:])
            xavier = math.sqrt(2 * inputs / (inputs + shape[0] * field))
            found.append(
                _Layer(
                    name,
                    size * math.sqrt(inputs),
                    min(_TORCH, xavier),
                    math.sqrt(max(growth[place], 0.0)),
                    behind.get(place),
                )
            )
    return found
