"""Modules whose mode or statistics do not fit what is trained: in eval, or frozen (P3, P48)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

_MOSTLY = 0.5
"""Share of trained elements from which on a part of a network is trained. Our choice: adapters in a
frozen backbone are a few percent of it."""


def depends_on_mode(module: nn.Module) -> bool:
    """Whether a module computes something else in eval mode.

    Example:
        >>> [depends_on_mode(m) for m in (nn.BatchNorm1d(2), nn.Dropout(0.1), nn.LayerNorm(2))]
        [True, True, False]
    """
    if isinstance(module, _NormBase):
        return module.running_mean is not None
    return dropout_of(module) > 0


def dropout_of(module: nn.Module) -> float:
    """Return the probability with which a module of PyTorch drops what it works on; else 0.

    Example:
        >>> dropout_of(nn.Dropout(0.1)), dropout_of(nn.Linear(2, 2))
        (0.1, 0.0)
    """
    if isinstance(module, _DropoutNd):
        return float(module.p)
    if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)):
        return float(module.dropout)
    return 0.0


def parents(root: nn.Module) -> dict[int, nn.Module]:
    """Return the module that holds each module, by ``id``; of several the first."""
    found: dict[int, nn.Module] = {}
    for module in root.modules():
        for child in module.children():
            found.setdefault(id(child), module)
    return found


def around(module: nn.Module, parent_of: dict[int, nn.Module]) -> nn.Module:
    """Return the nearest module around this one that has parameters of other layers."""
    own = sum(1 for _ in module.parameters())
    outer = module
    while id(outer) in parent_of:
        outer = parent_of[id(outer)]
        if sum(1 for _ in outer.parameters()) > own:
            break
    return outer


@dataclass
class ModeWatch:
    """A module whose mode matters, and what is around it.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).eval()
        >>> watch = ModeWatch(net[1], net, net, fresh=False)
        >>> watch.is_amiss(Trained(net.parameters())), watch.is_amiss(Trained([]))
        (True, False)
    """

    module: nn.Module
    parent: nn.Module
    """The module that holds it."""
    around: nn.Module
    """The nearest one that holds layers."""
    fresh: bool
    """Whether its running statistics were never taken when the fit began."""

    def is_amiss(self, trained: Trained) -> bool:
        """Whether it is in eval mode although what is around it is trained.

        A module that was put in eval mode on its own was so on purpose, unless it is a norm without
        statistics: that one does not normalise.
        """
        if self.module.training or (self.parent.training and not self.fresh):
            return False
        return trained.share_of(self.around) >= _MOSTLY


class Trained:
    """Which parameters are trained at present.

    Args:
        parameters: Those that require gradients and have an optimizer.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._sizes = {id(parameter): parameter.numel() for parameter in parameters}
        self._shares: dict[int, float] = {}

    def share_of(self, module: nn.Module) -> float:
        """Return the share of a module's elements that are trained."""
        if id(module) not in self._shares:
            count = total = 0
            for parameter in module.parameters():
                total += parameter.numel()
                count += self._sizes.get(id(parameter), 0)
            self._shares[id(module)] = count / max(total, 1)
        return self._shares[id(module)]

    def share_in_eval(self, layers: Sequence[nn.Module]) -> float:
        """Return the share of the trained elements whose layers are in eval mode."""
        resting = [layer for layer in layers if not layer.training]
        if not resting:
            return 0.0
        own = {id(p) for layer in resting for p in layer.parameters(recurse=False)}
        count = sum(size for key, size in self._sizes.items() if key in own)
        return count / max(sum(self._sizes.values()), 1)


@dataclass
class FrozenNorm:
    """A norm with running statistics, all of whose surroundings were frozen when the fit began."""

    module: _NormBase
    around: nn.Module
    mean: Tensor
    """Its running mean when the fit began."""
    sample: Tensor
    """A frozen parameter, and `sample_copy` what it was: one that moves is a moving average."""
    sample_copy: Tensor

    def has_changed(self) -> Tensor:
        """Return whether the statistics moved while the parameters stood still, without waiting."""
        moved = self.module.running_mean
        frozen = not any(p.requires_grad for p in self.around.parameters())
        if moved is None or not frozen or moved.shape != self.mean.shape:
            return torch.tensor(0.0, device="cpu")
        still = (self.sample.detach() == self.sample_copy).all()
        return ((moved != self.mean).any() & still).double()


def mode_watches(root: nn.Module, known: dict[int, str]) -> dict[str, ModeWatch]:
    """Return the modules of `known` whose mode matters, by path."""
    parent_of = parents(root)
    found = {}
    for module in root.modules():
        if id(module) in known and depends_on_mode(module):
            batches = getattr(module, "num_batches_tracked", None)
            fresh = isinstance(batches, Tensor) and int(batches) == 0
            parent = parent_of.get(id(module), module)
            holder = around(module, parent_of)
            found[known[id(module)]] = ModeWatch(module, parent, holder, fresh)
    return found


def frozen_norms(root: nn.Module, known: dict[int, str]) -> dict[str, FrozenNorm]:
    """Return the norms of `known` with running statistics in frozen surroundings, by path."""
    parent_of = parents(root)
    found = {}
    for module in root.modules():
        if id(module) not in known or not isinstance(module, _NormBase):
            continue
        holder = around(module, parent_of)
        parameters = sorted(holder.parameters(), key=lambda p: p.numel())
        if module.running_mean is None or not parameters:
            continue
        if not any(p.requires_grad for p in parameters):
            own = next(module.parameters(), parameters[0])
            found[known[id(module)]] = FrozenNorm(
                module, holder, module.running_mean.clone(), own, own.detach().clone()
            )
    return found
