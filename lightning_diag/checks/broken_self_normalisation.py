"""`BrokenSelfNormalisation`: SELU in a network that keeps it from normalising itself (C8)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.checks.base import Check
from lightning_diag.checks.signal import Signal, signal
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.initialisation.propagation import Passage
from lightning_diag.wording import listing, shown


@dataclass(frozen=True)
class BrokenSelfNormalisation(Check):
    """SELU activations in a network that keeps them from normalising themselves.

    What it sees:
        A network with several layers that SELU follows, in one step of a copy: initial weights
        whose gain is not LeCun's 1, plain dropout behind SELU (`AlphaDropout` is made for it),
        norms before or behind it, residual sums, and a weight decay that pulls weights below the
        size it needs. A gain of less than `loose` of 1, or as far above, counts.

    Why it matters:
        SELU keeps mean 0 and variance 1 by itself only with LeCun's weights and nothing else that
        changes mean or variance. Otherwise it is an activation like others, and what made it a
        choice is lost (C8).

    What to do:
        Draw the weights with LeCun's initialisation, put alpha dropout in place of dropout, and
        leave norms and skip connections out; or take another activation.

    References:
        Klambauer et al., Self-Normalizing Neural Networks, 2017, arXiv:1706.02515.
    """

    code: ClassVar[str] = "broken-self-normalisation"
    family: ClassVar[str] = "initialisation"
    needs: ClassVar[tuple[str, ...]] = ("trial",)

    layers: int = 3
    """Layers with SELU from which on it matters, at least 1. Our choice: fewer do not drift far."""
    loose: float = 0.8
    """Share of the gain 1, or its inverse, that is close enough, above 0 to 1. Our choice: weights
    of 64 inputs and 16 units stay within 0.95."""
    decay: float = 1e-3
    """L2 penalty of SGD or Adam from which on it is named, above 0. Our choice: the paper allows
    for none; smaller ones hardly pull. Decoupled decay, as of AdamW, does not count."""

    def __post_init__(self) -> None:
        self._require("layers", least=1, unit="layer")
        self._require("loose", least=0.0, most=1.0)
        self._require("decay", least=0.0)

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        seen = signal(subject)
        layers = [each for each in seen.passages if each.followed.by == "selu"]
        if len({each.weight for each in layers}) < self.layers:
            return []
        faults = self._faults(seen, layers)
        faults["weight decay pulls on them"] = self._decayed(subject, layers)
        found = {what: list(dict.fromkeys(names)) for what, names in faults.items() if names}
        if not found:
            return []
        places = list(dict.fromkeys(name for names in found.values() for name in names))
        told = "; ".join(f"{what} ({listing(names, 2)})" for what, names in found.items())
        return self.found(
            "note",
            f"SELU follows {len(layers)} layers, but does not normalise itself here: {told} "
            f"({len(found)} of its conditions broken, one batch).",
            "Draw the weights with `lightning_diag.init_`, use `torch.nn.AlphaDropout`, and leave "
            "norms, skip connections and weight decay out; or take `torch.nn.ReLU` with norms.",
            value=len(found),
            threshold=1,
            places=places,
        )

    def _faults(self, seen: Signal, layers: list[Passage]) -> dict[str, list[str]]:
        rows = {row.name: row for row in seen.table}
        gains = {
            each.weight: row.size * math.sqrt(row.fan_in)
            for each in layers
            if (row := rows.get(each.weight)) is not None and row.fan_in
        }
        wrong = [n for n, gain in gains.items() if not self.loose <= gain <= 1 / self.loose]
        worst = max(wrong, key=lambda name: abs(math.log(gains[name] or 1e-9)), default="")
        size = shown(gains[worst]) if wrong else ""
        return {
            f"initial weights have the gain {size}, not LeCun's 1": wrong,
            "plain dropout follows": _with(layers, "dropout"),
            "norms are between": [
                *(each.weight for each in layers if each.followed.is_normed),
                *_with(layers, "norm"),
            ],
            "residual sums are between": [
                *(each.weight for each in layers if each.followed.is_residual),
                *_with(layers, "sum"),
            ],
        }

    def _decayed(self, subject: Subject, layers: Iterable[Passage]) -> list[str]:
        if subject.lacks("optimizers"):
            return []
        coupled = {
            i
            for i, optimizer in enumerate(subject.optimizers)
            if type(optimizer).__name__ in ("SGD", "Adam", "RMSprop", "Adagrad", "NAdam")
        }
        held = subject.parameters
        return [
            each.weight
            for each in layers
            if each.weight in held
            and held[each.weight].weight_decay >= self.decay
            and coupled & {group for group, _ in held[each.weight].groups}
        ]


def _with(layers: Iterable[Passage], what: str) -> list[str]:
    return [each.weight for each in layers if what in each.followed.after]
