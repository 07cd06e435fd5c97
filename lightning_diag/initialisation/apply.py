"""`init_`: draws the initial weights that `suggest_init` suggests (C5, C6, C8, W8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from lightning_diag.initialisation.draw import Distribution, orthogonal_, scaled_, sparse_
from lightning_diag.initialisation.lsuv import scale_by_data
from lightning_diag.initialisation.plan import Mode, Plan, Scheme
from lightning_diag.initialisation.slots import Only, Slot, size_of
from lightning_diag.initialisation.suggest import make_plan
from lightning_diag.initialisation.table import InitSuggestion, InitTable


def init_(
    module: nn.Module,
    *inputs: Any,
    scheme: Scheme = "auto",
    only: Only = None,
    mode: Mode | None = None,
    distribution: Distribution = "normal",
    connections: int = 15,
    generator: torch.Generator | None = None,
    run: Callable[[], Any] | None = None,
) -> InitTable:
    """Draw the initial weights of a module, each by what follows its layer.

    Weights of layers are drawn as `suggest_init` says. Recurrent weights become orthogonal, gate by
    gate; query, key and value matrices get Xavier's, embeddings N(0, 1), or 1 / sqrt(width) where
    they are tied to a layer; norms 1 and 0, and their running statistics start anew; biases 0, but
    1 at the forget gates of an LSTM. A tied weight is drawn once. Frozen parameters are left alone,
    and so are zeros that begin a branch or the last layer on purpose, a last bias that was set by
    hand, and parameters of no layer that was seen. Gradients and optimizers are not touched.

    Args:
        module: Any; a LightningModule, too. Call it before training, as in `__init__`.
        inputs: As of `suggest_init`; "lsuv" needs some dozens of samples for its variances.
        scheme: As of `suggest_init`.
        only: Parameters to draw, as of `suggest_init`: leave pretrained layers out with it.
        mode: As of `suggest_init`.
        distribution: ``normal`` or ``uniform``, of the same standard deviation.
        connections: Inputs of each unit for "sparse", at least 1. Martens took 15.
        generator: Where random numbers come from, on the device of the weights. None is torch's
            global state, as of `torch.nn.init`: the same seed gives the same weights.
        run: Runs the module instead of ``module(*inputs)``.

    Returns:
        What was done, a row for each parameter that was meant; it prints as a table.

    Raises:
        TypeError: As of `suggest_init`.
        ValueError: As of `suggest_init`; then no weight was drawn.

    Example:
        >>> net = nn.Sequential(nn.Linear(100, 50), nn.Tanh(), nn.Linear(50, 10))
        >>> done = init_(net, torch.zeros(2, 100))
        >>> done["0.weight"].draw, net[0].bias.any().item()
        ('xavier', False)

    References:
        Those of `suggest_init`. Martens, 2010 (sparse). Mishkin and Matas, All you need is a good
        init, 2016, arXiv:1511.06422 (lsuv).
    """
    if distribution not in get_args(Distribution):
        known = ", ".join(get_args(Distribution))
        raise ValueError(f"`distribution` must be one of {known}, got {distribution!r}.")
    if connections < 1:
        raise ValueError(f"`connections` must be at least 1 input, got {connections}.")
    plan = make_plan(module, inputs, scheme=scheme, only=only, mode=mode, run=run)
    pencil = _Pencil(distribution, connections, generator)
    pairs = list(zip(plan.slots, plan.rows, strict=True))
    failed = {row.name: pencil.fill(slot, row) for slot, row in pairs if row.draw != "keep"}
    _restart_norms(module, only, plan)
    scaled = scale_by_data(module, inputs, run, plan) if scheme == "lsuv" else {}
    done = (_done(slot, row, failed.get(row.name, ""), scaled) for slot, row in pairs)
    return InitTable(tuple(done), is_done=True)


def _done(slot: Slot, row: InitSuggestion, problem: str, scaled: dict[str, str]) -> InitSuggestion:
    """Return what became of a suggestion."""
    if problem:
        return replace(row, draw="keep", reason=problem, std=None)
    tensor = getattr(slot.owner, slot.attribute) if slot.is_parametrized else slot.tensor
    reason = "; ".join(filter(None, [row.reason, scaled.get(row.name, "")]))
    return replace(row, size=size_of(tensor), reason=reason)


@dataclass(frozen=True)
class _Pencil:
    """Draws tensors."""

    distribution: Distribution
    connections: int
    generator: torch.Generator | None

    @torch.no_grad()
    def fill(self, slot: Slot, row: InitSuggestion) -> str:
        """Draw a tensor; return why not, if it cannot be set."""
        if not slot.is_parametrized:
            self._draw(slot.tensor, slot, row)
            return ""
        value = torch.empty_like(slot.tensor)
        self._draw(value, slot, row)
        try:
            setattr(slot.owner, slot.attribute, value)
        except (NotImplementedError, RuntimeError, ValueError):
            return "its parametrization cannot be set"
        return ""

    def _draw(self, tensor: Tensor, slot: Slot, row: InitSuggestion) -> None:
        if row.draw in ("ones", "zeros", "forget"):
            tensor.fill_(1.0 if row.draw == "ones" else 0.0)
        if row.draw == "forget":
            hidden = tensor.shape[0] // slot.parts
            tensor[hidden : 2 * hidden] = 1.0  # in, forget, cell, out
        if row.std is None:
            return
        for part in tensor.chunk(slot.parts):
            if row.draw == "orthogonal":
                orthogonal_(_rows_first(part, slot), row.gain or 1.0, self.generator)
            elif row.draw == "sparse":
                sparse_(_rows_first(part, slot), row.std, self.connections, self.generator)
            else:
                scaled_(part, row.std, self.distribution, self.generator)
        padding = getattr(slot.owner, "padding_idx", None) if row.kind == "embedding" else None
        if padding is not None:
            tensor[padding] = 0.0


def _rows_first(weight: Tensor, slot: Slot) -> Tensor:
    """Return a weight with its units first, as a view."""
    if isinstance(slot.owner, nn.modules.conv._ConvTransposeNd):
        return weight.transpose(0, 1)
    return weight


def _restart_norms(module: nn.Module, only: Only, plan: Plan) -> None:
    """Forget the running statistics that belong to the weights before."""
    drawn = {
        id(slot.owner)
        for slot, row in zip(plan.slots, plan.rows, strict=True)
        if row.kind == "norm" and row.draw != "keep"
    }
    for owner in module.modules():
        restart = getattr(owner, "reset_running_stats", None)
        is_bare = getattr(owner, "affine", True) is False and only is None
        if restart is not None and (id(owner) in drawn or is_bare):
            restart()
