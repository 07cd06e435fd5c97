"""`Trial`: one training step on a copy, and all that checks want to know of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from lightning_diag.checks.data import Unavailable
from lightning_diag.checks.losses import LossCatch, SeenLoss
from lightning_diag.checks.twin import Twin, running, said
from lightning_diag.probe.places import named_parameters, trained_modules


@dataclass(frozen=True)
class Trial:
    """What one training step showed."""

    loss: float | None
    """What `training_step` returned, before any division by an accumulation factor; None if it
    returned none."""
    losses: tuple[SeenLoss, ...]
    """The calls of loss functions, in their order."""
    called: frozenset[str]
    """Paths of the modules whose `forward` ran."""
    gradients: Mapping[str, float]
    """Norm of the gradient that reached each parameter; absent where none did. With manual
    optimisation the largest of the step."""
    backward: str
    """Why there was no backward pass; empty if there was one."""
    has_gradient: bool = True
    """Whether the loss had a graph to go back through."""


def run_trial(twin: Twin, batch: object, batch_idx: int = 0) -> Trial:
    """Run one training step of a copy, forward and backward.

    Args:
        twin: The copy; afterwards its gradients are those of this step.
        batch: As the loader has it.
        batch_idx: Which it is said to be.

    Raises:
        Unavailable: If the module's code fails.
    """
    batch = twin.moved(batch)
    modules = trained_modules(twin.module)
    called: set[int] = set()
    with _reached(twin.module) as reached, ExitStack() as hooks:
        scripted = torch.jit.ScriptModule  # takes no hook
        for module in (m for m in twin.module.modules() if not isinstance(m, scripted)):
            handle = module.register_forward_pre_hook(lambda m, _: called.add(id(m)))
            hooks.callback(handle.remove)
        with LossCatch(modules) as catch:
            loss = twin.step(batch, batch_idx)
        backward = _backward(twin, loss)
    return Trial(
        loss=None if loss is None else float(loss.detach().float().mean()),
        losses=tuple(catch.seen),
        called=frozenset(path for key, path in modules.items() if key in called),
        gradients=dict(reached),
        backward=backward,
        has_gradient=backward != _NO_GRAPH,
    )


_NO_GRAPH = "the loss has no gradient"


def _backward(twin: Twin, loss: Tensor | None) -> str:
    if not twin.module.automatic_optimization:
        return ""
    if loss is None:
        return "`training_step` returned no loss"
    if not loss.requires_grad:
        return _NO_GRAPH
    try:
        with running(), said("the backward pass failed"):
            loss.mean().backward()
    except Unavailable as error:
        return str(error)
    return ""


@contextmanager
def _reached(module: nn.Module) -> Iterator[dict[str, float]]:
    """Yield the norm of the gradient that arrives at each parameter while it is entered."""
    norms: dict[str, float] = {}

    def note(name: str, parameter: Tensor) -> None:
        if parameter.grad is not None:
            norm = float(torch.linalg.vector_norm(_dense(parameter.grad).float()))
            norms[name] = max(norm, norms.get(name, 0.0)) if math.isfinite(norm) else norm

    with ExitStack() as hooks:
        for name, _, parameter in named_parameters(module):
            if parameter.requires_grad and not isinstance(parameter, UninitializedParameter):
                handle = parameter.register_post_accumulate_grad_hook(
                    lambda p, name=name: note(name, p)
                )
                hooks.callback(handle.remove)
        yield norms


def _dense(gradient: Tensor) -> Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient
