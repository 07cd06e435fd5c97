"""`RegularisationLowersLoss`: a penalty on weights that rewards large ones (C2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_diag.checks.base import Check
from lightning_diag.checks.data import clone
from lightning_diag.checks.same_draws import SameDraws
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.twin import Twin, running, said
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.probe.functions import FUNCTIONS
from lightning_diag.probe.places import named_parameters
from lightning_diag.wording import listing, shown

_EVEN = 1e-4
"""Relative difference that rounding may make."""


@dataclass(frozen=True)
class RegularisationLowersLoss(Check):
    """A penalty in the loss that falls when the weights grow.

    What it sees:
        What is left of the loss that `training_step` returns if the loss functions of torch that
        it calls answer zero: on a copy, for two batches. If that is the same for both, not zero,
        and has a gradient, it is a penalty on weights. Then the weights in it are multiplied, and
        it must not fall faster and faster. Terms that change with the sign of the weights are no
        penalties on their size and do not count; the optimizer's `weight_decay` is no term of the
        loss. Where there is no such term nothing is observed.

    Why it matters:
        A penalty with the wrong sign rewards large weights without end: the loss falls while the
        network gets worse, until it is not finite.

    What to do:
        Add the penalty, do not subtract it; take squares or absolute values, and a coefficient
        above 0.

    References:
        CS231n course notes, Neural Networks Part 3: raising the regularisation must raise the loss
        (C2).
    """

    code: ClassVar[str] = "regularisation-lowers-loss"
    family: ClassVar[str] = "regularisation-raises-loss"
    needs: ClassVar[tuple[str, ...]] = ("losses", "copy")

    factor: float = 10.0
    """What weights are multiplied by, above 1, and once more by the same. Our choice: a penalty
    that keeps weights near a size of their own, such as orthogonality, has risen by then."""

    def __post_init__(self) -> None:
        self._require("factor", least=1.0)

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        if not subject.module.automatic_optimization:
            return self.not_observed("`training_step` takes its steps itself")
        batches = subject.batches
        if len(batches) < 2:
            return self.not_observed("there is one batch only, to which nothing can be compared")
        rest = _Rest(subject.copy())
        one, other = (rest(batch) for batch in batches[:2])
        weights = rest.weights(batches[0]) if one == other and math.isfinite(one) else {}
        obstacle = "" if one == other else "what is added to the loss depends on the data"
        if not obstacle and not weights:
            obstacle = "no term of the loss depends on the weights alone"
        if not obstacle and not rest.is_even(batches[0], weights):
            obstacle = "what is added to the loss changes with the weights' sign"
        if obstacle:
            return self.not_observed(obstacle)
        grown = [rest.scaled(batches[0], weights, self.factor**power) for power in (1, 2)]
        first, second = one - grown[0], grown[0] - grown[1]
        # A logarithm, as of a determinant, falls by the same each time: it is a barrier.
        is_rewarded = first > 0 and second > 2 * first
        return self._found(one, grown[0], weights) if is_rewarded else []

    def _found(self, before: float, after: float, weights: dict[str, Tensor]) -> list[Finding]:
        return self.found(
            "bad",
            f"A term of the loss that depends on the weights alone falls when they grow: with "
            f"{self.factor:g} times the weights it goes from {shown(before)} to {shown(after)} "
            f"({listing(list(weights))}), so that large weights are rewarded.",
            "Add the penalty in `training_step` instead of subtracting it, of squares or absolute "
            "values, with a coefficient above 0.",
            value=after,
            threshold=before,
            places=list(weights),
            window=2,
        )


class _Silent(TorchFunctionMode):
    """Lets loss functions answer zero, so that what is added to them is left."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        function = FUNCTIONS.get(func)
        if function is None or function.kind != "loss" or not isinstance(output, Tensor):
            return output
        return torch.zeros_like(output)


class _Rest:
    """What is left of the loss of a copy without what loss functions return."""

    def __init__(self, twin: Twin) -> None:
        self._twin, self._draws = twin, SameDraws()

    def __call__(self, batch: Any) -> float:
        return float(self._loss(batch).detach())

    def _loss(self, batch: Any) -> Tensor:
        self._draws.again()
        batch = self._twin.moved(clone(batch))
        with _Silent():
            return self._twin.loss(batch).double().mean()

    def weights(self, batch: Any) -> dict[str, Tensor]:
        """Return the parameters of two or more dimensions that it depends on, by name."""
        loss = self._loss(batch)
        if not loss.requires_grad:
            return {}
        named = {n: p for n, _, p in named_parameters(self._twin.module) if p.requires_grad}
        with running(), said("the backward pass failed"):
            found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        pairs: Any = zip(named.items(), found, strict=True)  # None where there is no gradient
        return {
            name: parameter
            for (name, parameter), gradient in pairs
            if gradient is not None and parameter.dim() > 1 and bool(gradient.any())
        }

    def is_even(self, batch: Any, weights: dict[str, Tensor]) -> bool:
        """Return whether it is the same for the opposite weights, as a penalty on size is."""
        one, mirrored = self(batch), self.scaled(batch, weights, -1.0)
        return abs(mirrored - one) <= _EVEN * abs(one)

    def scaled(self, batch: Any, weights: dict[str, Tensor], factor: float) -> float:
        """Return what it is with some parameters multiplied; they are as before afterwards."""
        before = {name: p.detach().clone() for name, p in weights.items()}
        with torch.no_grad():
            for parameter in weights.values():
                parameter.mul_(factor)
        try:
            return self(batch)
        finally:
            with torch.no_grad():
                for name, parameter in weights.items():
                    parameter.copy_(before[name])
