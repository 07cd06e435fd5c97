"""`SymmetricInit`: hidden units that begin alike and stay so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.reading import depth_profile, listing, parameters

_GATES = ("weight_ih", "weight_hh")
"""Beginnings of the names of recurrent weights, whose calls are fused and not seen."""


@dataclass(frozen=True)
class SymmetricInit(Rule):
    """Hidden units that are copies of each other, and get the same gradients.

    What it sees:
        The share of a hidden layer's units whose weights equal another unit's, and the share whose
        gradients do, at the newest look at both; it speaks from the fourth watched step on. Equal
        weights alone are no fault: heads, last layers of residual branches and adapters begin at
        zero, and get a gradient of their own for each unit as soon as it reaches them. The outputs
        are told apart by their targets, so the last layer does not count; nor do embeddings.

    Why it matters:
        Units with equal weights and equal gradients stay equal for ever: a layer of any width is as
        good as one unit. All-zero weights do not learn at all, but for the last bias (C5).

    What to do:
        Draw the weights at random, as PyTorch does if it is left alone; only biases, and the last
        layer of a branch, may begin at zero.

    References:
        Glorot and Bengio, Understanding the difficulty of training deep feedforward neural
        networks, AISTATS 2010.
        Goodfellow et al., Deep Learning, 2016, section 8.4.
    """

    code: ClassVar[str] = "symmetric-init"
    needs: ClassVar[tuple[str, ...]] = ("weight/duplicate_fraction",)
    uses: ClassVar[tuple[str, ...]] = ("gradient/duplicate_fraction",)

    fraction: float = 0.5
    """Share of a layer's units that are copies from which on it counts, above 0 to 1. Our choice:
    random units are never copies, and a network that was widened by doubling each unit has all."""
    records: int = 4
    """Watched steps after which it speaks, at least 1. Our choice: behind a head and a branch that
    both begin at zero, and a learning rate that does, gradients come with the third step."""

    def __post_init__(self) -> None:
        self._require("fraction", least=0.0, most=1.0)
        self._require("records", least=1, unit="watched step")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        alike = history.last("weight/duplicate_fraction")
        suspects = [name for name, share in alike.items() if share >= self.fraction]
        if len(history) < self.records:
            return self.not_observed(f"fewer than {self.records} steps were watched")
        if not suspects:
            return []
        pushes = history.last("gradient/duplicate_fraction")
        hidden = hidden_weights(history)
        places = [
            name for name in hidden if name in suspects and pushes.get(name, 0.0) >= self.fraction
        ]
        if not places:
            return []
        steps = [
            step
            for step, seen in history.window("weight/duplicate_fraction", 16)
            if max(seen.get(name, 0.0) for name in places) >= self.fraction
        ]
        value = max(alike[name] for name in places)
        names = listing(places)
        return [
            Finding(
                code=self.code,
                severity="bad",
                message=(
                    f"In {names} {value:.0%} of the units have the weights of another unit and get "
                    f"its gradients too (threshold {self.fraction:.0%}, seen at {len(steps)} "
                    f"watched steps up to {steps[-1]:,}), so they stay equal "
                    f"({len(places)} of {len(hidden)} hidden layers)."
                ),
                remedy=(
                    "Draw the weights at random, with `lightning_diag.init_`, "
                    "`torch.nn.init.kaiming_normal_` or `torch.nn.init.xavier_uniform_`; zeros "
                    "are for biases."
                ),
                places=tuple(places),
                steps=(steps[0], steps[-1]),
                evidence=Evidence(
                    max(value, self.fraction), self.fraction, steps[-1] - steps[0] + 1, len(steps)
                ),
            )
        ]


def hidden_weights(history: History) -> list[str]:
    """Return the weights of layers that another layer of the same network follows."""
    known = parameters(history)
    chains = depth_profile(history)
    hidden = {name for chain in chains for name in chain[:-1]}
    hidden |= {name for name in known if name.rpartition(".")[2].startswith(_GATES)}
    return [name for name in known if name in hidden]
