"""`AdaptiveGradientClipping`: clips each unit's gradient by the size of its weights (R6)."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from lightning_diag._compat import LightningModule, MisconfigurationException, Trainer
from lightning_diag.clipping.callback import GradientClipper

_TINY = 1e-6
"""Least norm that is divided by, as in the authors' code."""


def unitwise_norm(x: Tensor, unit_dim: int = 0) -> Tensor:
    """Return the L2 norm of each unit's weights, or of a bias or scale as a whole.

    Args:
        unit_dim: Dimension that counts units: 0 for linear layers and convolutions, 1 for
            transposed convolutions.

    Shape:
        ``(units, *)`` -> ``(units, 1, ..)``; ``(*)`` of at most one dimension -> ``()``.

    Example:
        >>> unitwise_norm(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
        tensor([[5.],
                [2.]])
    """
    dims = [dim for dim in range(x.dim()) if dim != unit_dim] if x.dim() > 1 else None
    norm: Tensor = torch.linalg.vector_norm(x, dim=dims, keepdim=dims is not None)
    return norm


def adaptive_clip_(
    gradient: Tensor,
    weight: Tensor,
    clipping: float,
    *,
    eps: float = 1e-3,
    unit_dim: int = 0,
    scale: Tensor | None = None,
) -> None:
    """Shorten in place the gradient of each unit that is longer than its share of the weights.

    ``G -> clipping * max(|W|, eps) / |G| * G`` where ``|G| > clipping * max(|W|, eps)``; units
    whose gradient is not finite are left alone.

    Args:
        gradient: Dense, ``(units, *)``.
        weight: The same shape.
        clipping: Largest norm of a gradient over that of the weights, above 0.
        eps: Least norm that weights count with, 0 or more, so that those of 0 can grow.
        unit_dim: See `unitwise_norm`.
        scale: What the gradient is still multiplied by.

    Example:
        >>> gradient = torch.tensor([[0.6, 0.8], [0.0, 0.001]])
        >>> adaptive_clip_(gradient, torch.tensor([[1.0, 0.0], [1.0, 0.0]]), 0.1)
        >>> gradient
        tensor([[0.0600, 0.0800],
                [0.0000, 0.0010]])
    """
    most = unitwise_norm(weight.detach(), unit_dim).clamp(min=eps) * clipping
    norm = unitwise_norm(gradient, unit_dim)
    if scale is not None:
        most = most * scale.to(most)
    exceeds = norm.isfinite() & (norm > most)
    factor = torch.where(exceeds, most / norm.clamp(min=_TINY), torch.ones_like(norm))
    gradient.mul_(factor)


class AdaptiveGradientClipping(GradientClipper):
    """Clip the gradient of each unit to a share of the norm of its weights (R6).

    A unit is a row of a weight matrix or a filter; a bias or scale counts as one. Sparse gradients
    and complex parameters are left alone, and so are units whose gradient is not finite. Nothing
    is remembered from step to step.

    Args:
        clipping: Largest norm of a unit's gradient over that of its weights, above 0. The authors
            took 0.01 for batches of 4,096 samples and up to 0.16 for small ones.
        eps: Least norm that weights count with, 0 or more.
        exclude_last: Leave the last layer with weights alone, as the authors advise: the last one
            registered.
        exclude: Patterns of names of more parameters to leave alone, such as ``["head.*"]``.

    Raises:
        ValueError: If an argument is out of range.
        MisconfigurationException: When a fit begins, if a pattern of `exclude` fits no parameter,
            or under a strategy that spreads gradients over ranks.

    Cost:
        On every step some ten small operations for each parameter, and three passes over weights
        and gradients; no wait for a GPU.

    Example:
        >>> AdaptiveGradientClipping(0.05).clipping
        0.05

    References:
        Brock et al., High-Performance Large-Scale Image Recognition Without Normalization, 2021,
        arXiv:2102.06171, section 4.
    """

    def __init__(
        self,
        clipping: float = 0.01,
        *,
        eps: float = 1e-3,
        exclude_last: bool = True,
        exclude: list[str] | None = None,
    ) -> None:
        if not clipping > 0:
            raise ValueError(f"`clipping` must be above 0, got {clipping}.")
        if not eps >= 0:
            raise ValueError(f"`eps` must be at least 0, got {eps}.")
        super().__init__(
            clipping=clipping, eps=eps, exclude_last=exclude_last, exclude=list(exclude or [])
        )
        self.clipping = clipping
        self.eps = eps
        self.exclude_last = exclude_last
        self.exclude = list(exclude or [])
        self._excluded: set[int] = set()
        self._unit_dims: dict[int, int] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out which parameters to leave alone."""
        module: Any = pl_module
        named = dict(module.named_parameters())
        for pattern in self.exclude:
            if not any(fnmatchcase(name, pattern) for name in named):
                raise MisconfigurationException(
                    f"`exclude` must hold patterns of parameters, and {pattern!r} fits none of "
                    f"them: they are called {', '.join(list(named)[:3])} and so on."
                )
        excluded = [
            parameter
            for name, parameter in named.items()
            if any(fnmatchcase(name, pattern) for pattern in self.exclude)
        ]
        if self.exclude_last:
            excluded += last_layer(module)
        self._excluded = {id(parameter) for parameter in excluded}
        self._unit_dims = {
            id(one.weight): 1
            for one in module.modules()
            if isinstance(one, nn.modules.conv._ConvTransposeNd)
        }

    def clip(self, index: int, optimizer: Any, scale: Tensor | None) -> None:
        """See `GradientClipper.clip`."""
        seen: set[int] = set(self._excluded)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) not in seen and _can_clip(parameter.grad):
                    seen.add(id(parameter))
                    adaptive_clip_(
                        parameter.grad,
                        parameter,
                        self.clipping,
                        eps=self.eps,
                        unit_dim=self._unit_dims.get(id(parameter), 0),
                        scale=scale,
                    )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the parameters."""
        self._excluded, self._unit_dims = set(), {}


def last_layer(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of the last module that is registered with a weight matrix.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1), nn.Softmax(1))
        >>> [tuple(parameter.shape) for parameter in last_layer(net)]
        [(1, 3), (1,)]
    """
    owned = [list(one.parameters(recurse=False)) for one in module.modules()]
    return next((own for own in reversed(owned) if any(map(_is_weight, own))), [])


def _is_weight(parameter: nn.Parameter) -> bool:
    return isinstance(parameter, UninitializedParameter) or parameter.dim() > 1


def _can_clip(gradient: Tensor | None) -> bool:
    return gradient is not None and gradient.layout is torch.strided and not gradient.is_complex()
