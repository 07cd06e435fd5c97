"""`SymmetricInit`: hidden units that begin alike and stay so (C5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_diag.checks.base import Check
from lightning_diag.checks.data import clone
from lightning_diag.checks.signal import signal
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.twin import Twin, running, said
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.measure.weight import copies
from lightning_diag.wording import listing

_HIDDEN = ("weight", "gates", "recurrent", "attention")
_STEP = 0.01


@dataclass(frozen=True)
class SymmetricInit(Check):
    """Hidden units that are copies of each other, and get the same gradients.

    What it sees:
        The share of a hidden layer's units whose weights equal another unit's. Equal weights alone
        are no fault: heads, last layers of residual branches and adapters begin at zero, and get a
        gradient of their own for each unit as soon as it reaches them. So a copy takes some steps,
        each parameter by a hundredth of its size against its gradient, and only what is still
        alike then, and gets the same gradients, counts. The outputs are told apart by their
        targets, so last layers do not count; nor do embeddings, frozen weights and those of a
        module with manual optimisation.

    Why it matters:
        Units with equal weights and equal gradients stay equal for ever: a layer of any width is as
        good as one unit. All-zero weights do not learn at all, but for the last bias (C5).

    What to do:
        Draw the weights at random; only biases, and the last layer of a branch, may begin at zero.

    References:
        Glorot and Bengio, Understanding the difficulty of training deep feedforward neural
        networks, AISTATS 2010.
        Goodfellow et al., Deep Learning, 2016, section 8.4.
    """

    code: ClassVar[str] = "symmetric-init"
    family: ClassVar[str] = "initialisation"
    needs: ClassVar[tuple[str, ...]] = ("trial",)

    fraction: float = 0.5
    """Share of a layer's units that are copies from which on it counts, above 0 to 1. Our choice,
    as of the rule: random units are never copies, and all are in a network that was widened by
    doubling each unit."""
    steps: int = 3
    """Steps of the copy, at least 1, taken only where weights are alike. Our choice: behind a head
    and a branch that both begin at zero, gradients come with the third."""

    def __post_init__(self) -> None:
        self._require("fraction", least=0.0, most=1.0)
        self._require("steps", least=1, unit="step")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        seen = signal(subject)
        last = {each.weight for each in seen.heads()}
        hidden = [row.name for row in seen.table if row.kind in _HIDDEN and row.name not in last]
        first = _weights(subject.module, hidden)
        alike = {
            n: share
            for n, w in first.items()
            if (share := _copied(_units(subject.module, n, w))) >= self.fraction
        }
        if not alike:
            return []
        left = self._left(subject, list(alike))
        if not left:
            return []
        places = sorted(left, key=lambda name: -left[name])
        value = left[places[0]]
        return self.found(
            "bad",
            f"In {listing(places)} {value:.0%} of the units have the weights of another unit, and "
            f"still get its gradients after {self.steps} steps of a copy (it counts from "
            f"{self.fraction:.0%} on), so they stay equal ({len(places)} of {len(first)} hidden "
            "weights).",
            "Draw the weights at random: `lightning_diag.init_` does, by the activation that "
            "follows each layer; zeros are for biases.",
            value=value,
            threshold=self.fraction,
            places=places,
        )

    def _left(self, subject: Subject, names: list[str]) -> dict[str, float]:
        """Return the share of units that are still copies after some steps, where it counts."""
        twin = subject.copy()
        if not subject.lacks("optimizers"):
            _ = twin.optimizers  # a step may ask for its schedules
        batch = twin.moved(subject.batch())
        for index in range(self.steps):
            _descend(_gradients(twin, clone(batch), index))
        gradients = _gradients(twin, clone(batch), self.steps)
        weights = _weights(twin.module, names)
        found = {}
        for name, weight in weights.items():
            gradient = next((g for p, g in gradients.items() if p is weight), None)
            pushed = 1.0 if gradient is None else _copied(_units(twin.module, name, gradient))
            value = min(_copied(_units(twin.module, name, weight)), pushed)
            if value >= self.fraction:
                found[name] = value
        return found


def _weights(module: nn.Module, names: list[str]) -> dict[str, Tensor]:
    known = dict(module.named_parameters())
    return {
        name: known[name]
        for name in names
        if name in known and known[name].requires_grad and known[name].shape[0] > 1
    }


def _units(module: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """Return a weight, or its gradient, with its units in the first dimension."""
    owner = module.get_submodule(name.rpartition(".")[0])
    is_transposed = isinstance(owner, nn.modules.conv._ConvTransposeNd) and owner.groups == 1
    return tensor.transpose(0, 1) if is_transposed else tensor


def _copied(weight: Tensor) -> float:
    """Return the share of the units that equal another, of those that are not zero if some are."""
    with torch.no_grad():
        is_copy, size = copies(weight.detach().float())
        able = size != 0 if bool(size.any()) else torch.ones_like(is_copy)
    return float((is_copy & able).sum()) / float(able.sum())


def _gradients(twin: Twin, batch: Any, index: int) -> dict[nn.Parameter, Tensor]:
    loss = twin.loss(batch, index)
    parameters = [p for p in twin.module.parameters() if p.requires_grad]
    with running(), said("the backward pass failed"):
        found: Any = torch.autograd.grad(loss.mean(), parameters, allow_unused=True)
    return {p: g for p, g in zip(parameters, found, strict=True) if g is not None}


@torch.no_grad()
def _descend(gradients: Mapping[nn.Parameter, Tensor]) -> None:
    """Move each parameter against its gradient by a share of its size."""
    for parameter, gradient in gradients.items():
        rms = float(gradient.to_dense().float().square().mean().sqrt())
        size = float(parameter.float().square().mean().sqrt())
        if 0 < rms < float("inf"):
            parameter.sub_(gradient.to_dense(), alpha=_STEP * max(size, _STEP) / rms)
