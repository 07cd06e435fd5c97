"""`SteadyStep`: a training step in float64 that has the same loss each time."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from lightning_diag.checks.calm import Calm, calmed
from lightning_diag.checks.cuts import Cuts
from lightning_diag.checks.data import Unavailable, clone
from lightning_diag.checks.differences import Value
from lightning_diag.checks.double import in_double, make_double, raised
from lightning_diag.checks.same_draws import SameDraws
from lightning_diag.checks.twin import Twin, running, said
from lightning_diag.probe.places import named_parameters
from lightning_diag.wording import listing

SAME = 1e-12
"""Relative difference of two runs of the same step that counts as the same (our choice): only the
order of sums may differ."""
BURN_IN_RATE = 1e-3
"""Learning rate of the burn-in, by Adam (its default), whatever the module's own optimizer."""


class SteadyStep:
    """A training step of a copy as a function of its weights: the same each time it is called."""

    def __init__(self, twin: Twin, batch: Any) -> None:
        self.twin, self.cuts, self._draws = twin, Cuts(), SameDraws()
        for module in twin.module.modules():  # hooks that change gradients do so on purpose
            module._backward_hooks.clear()
            module._backward_pre_hooks.clear()
        calmed(twin.module)
        with said("the module cannot be turned into float64"):
            make_double(twin.module)
        self._batch = raised(batch)
        self.parameters = {
            name: p
            for name, _, p in named_parameters(twin.module)
            if p.requires_grad and p.is_floating_point()
        }
        self._attributes = _Attributes(twin.module)
        frozen = [p for p in twin.module.parameters() if not p.requires_grad]
        held = [*twin.module.buffers(), *frozen]
        self._changing = [(each, each.detach().clone()) for each in held]
        _ = self._loss()
        self._changing = [(t, old) for t, old in self._changing if not torch.equal(t, old)]
        self._put_back()

    def _put_back(self) -> None:
        """Put back what steps change themselves, such as running statistics and counters."""
        self._attributes.put_back()
        for tensor, values in self._changing:
            tensor.detach().copy_(values)

    def _loss(self) -> Tensor:
        """Run the step from the same beginning; afterwards all but gradients is as before."""
        self._put_back()
        with ExitStack() as within:
            for each in (in_double(), Calm(), self.cuts):
                within.enter_context(each)
            self._draws.again()
            return self.twin.loss(clone(self._batch)).mean()

    def burn_in(self, steps: int) -> None:
        """Train for a few steps, so that the weights are no longer those of the very beginning."""
        optimizer = torch.optim.Adam(self.parameters.values(), lr=BURN_IN_RATE)
        for _ in range(steps):
            self.cuts = Cuts()
            optimizer.zero_grad()
            with said("the backward pass failed in float64"), in_double():
                self._loss().backward()
            optimizer.step()
        optimizer.zero_grad()
        self.cuts = Cuts()

    def first(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss with its graph, and the gradients that autograd finds.

        Those that it finds none of are left out: `missing-gradient` tells of them.
        """
        before = {name: p.detach().clone() for name, p in self.parameters.items()}
        loss = self._loss()
        if not bool(torch.isfinite(loss)):
            raise Unavailable("the loss is not finite in float64")
        changed = [n for n, p in self.parameters.items() if not torch.equal(p, before[n])]
        if changed:
            raise Unavailable(f"`training_step` changes {listing(changed)} itself")
        with said("the backward pass failed in float64"), in_double(), running():
            loss.backward(retain_graph=True)
        found = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        for parameter in self.parameters.values():
            parameter.grad = None
        return loss, {n: (g.to_dense() if g.is_sparse else g).detach() for n, g in found.items()}

    def check_same(self) -> None:
        """Make sure that the same weights have the same loss.

        Raises:
            Unavailable: If they have not.
        """
        one, other = (float(self._loss().detach()) for _ in range(2))
        if not self.cuts.is_same or abs(one - other) > SAME * abs(one):
            raise Unavailable(
                "the loss of the same weights and samples is not the same each time "
                f"({one!r} and {other!r}), though random states are"
            )

    def __call__(self) -> Value:
        """Return the loss, and whether all choices are those of the first time."""
        with torch.enable_grad():
            loss = float(self._loss().detach())
        return Value(loss, self.cuts.is_same)


class _Attributes:
    """What modules have as attributes, with the contents of containers, and values of tensors."""

    def __init__(self, module: nn.Module) -> None:
        self._before = [(each, dict(vars(each))) for each in module.modules()]
        held = {id(v): v for _, values in self._before for v in values.values()}
        self._contents = [
            (each, copy.copy(each)) for each in held.values() if type(each) in (dict, list, set)
        ]
        self._values = [
            (each, each.detach().clone()) for each in held.values() if type(each) is Tensor
        ]

    def put_back(self) -> None:
        """Make everything as it was."""
        for module, attributes in self._before:
            vars(module).clear()
            vars(module).update(attributes)
        for container, members in self._contents:
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(members)
        for tensor, values in self._values:
            tensor.detach().copy_(values)
