"""`AutoClip`: clips at a percentile of the gradient norms seen so far (R6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_diag._compat import LightningModule, Trainer
from lightning_diag.clipping.callback import GradientClipper, gradients_of
from lightning_diag.clipping.gradients import scale_, total_norm


class NormMemory:
    """The newest finite norms, on the device of the gradients; nothing here waits for it.

    Args:
        window: How many, at least 1.
        like: A number on the device and of the type that norms have.

    Example:
        >>> memory = NormMemory(2, torch.tensor(0.0))
        >>> for norm in (1.0, float("inf"), 2.0, 4.0):
        ...     memory.add(torch.tensor(norm))
        >>> memory.percentile(50.0)
        tensor(3.)
    """

    def __init__(self, window: int, like: Tensor) -> None:
        self.norms = torch.full((window,), torch.nan, dtype=like.dtype, device=like.device)
        self.seen = torch.zeros((1,), dtype=torch.int64, device=like.device)
        """Finite norms so far."""

    def add(self, norm: Tensor) -> None:
        """Take in a norm ``()``; one that is not finite is left out."""
        slot = self.seen % len(self.norms)
        is_finite = norm.isfinite()
        self.norms.scatter_(0, slot, torch.where(is_finite, norm, self.norms.gather(0, slot)))
        self.seen += is_finite

    def percentile(self, percentile: float) -> Tensor:
        """Return a percentile ``()``, between neighbours in proportion; NaN without any norm."""
        ordered = self.norms.sort().values  # NaN come last
        count = self.seen.clamp(max=len(self.norms))
        at = (count - 1).clamp(min=0).to(ordered.dtype) * (percentile / 100)
        low = at.floor().long()
        high = torch.minimum(low + 1, (count - 1).clamp(min=0))
        below, above = ordered.gather(0, low), ordered.gather(0, high)
        return torch.lerp(below, above, at - low).squeeze(0)

    def newest(self) -> Tensor:
        """Return the norms, oldest first. Waits for the device."""
        count, size = int(self.seen), len(self.norms)
        return self.norms[:count] if count <= size else self.norms.roll(-(count % size))


def clip_coefficient(norm: Tensor, threshold: Tensor) -> Tensor:
    """Return by what to multiply gradients so that their norm is at most the threshold.

    1 where the norm is within it, or where either is not finite.

    Shape:
        ``()``, ``()`` -> ``()``.

    Example:
        >>> clip_coefficient(torch.tensor(4.0), torch.tensor(1.0))
        tensor(0.2500)
    """
    one = torch.ones_like(norm)
    exceeds = norm.isfinite() & (norm > threshold)
    return torch.where(exceeds, threshold / torch.where(exceeds, norm, one), one)


def auto_clip_(
    gradients: Sequence[Tensor],
    memory: NormMemory,
    percentile: float,
    scale: Tensor | None = None,
) -> Tensor:
    """Add the norm of gradients to a memory, and clip them in place at its percentile.

    Args:
        gradients: At least one.
        memory: Norms of earlier steps; the current one counts, too.
        percentile: Above 0, at most 100; 100 clips nothing.
        scale: What gradients are still multiplied by.

    Returns:
        The threshold, ``()``.
    """
    norm = total_norm(gradients).to(memory.norms)
    if scale is not None:
        norm = norm / scale.to(norm)
    memory.add(norm)
    threshold = memory.percentile(percentile)
    scale_(gradients, clip_coefficient(norm, threshold))
    return threshold


class AutoClip(GradientClipper):
    """Clip gradients at a percentile of the norms of the steps so far, its own included (R6).

    Each optimizer has norms of its own. Norms that are not finite are left alone, and not taken
    in. All ranks hold the same gradients, so they decide alike. The norms are part of the
    checkpoint. Gradients are clipped before `gradient_clip_val` is applied, and not by value.

    Args:
        percentile: Above 0, at most 100. 10 is what the authors found best for the separation of
            sound sources, and clips nine steps in ten: they then have nearly the same length.
        window: Steps that are remembered, at least 1. The authors remember all; 1,000 is our
            choice: it follows norms that change over a long training.

    Raises:
        ValueError: If an argument is out of range.
        MisconfigurationException: Under a strategy that spreads gradients over ranks.

    Cost:
        One pass over the gradients and one more to scale them, a sort of `window` numbers, and
        `window` numbers of memory, on every step; no wait for a GPU.

    Example:
        >>> AutoClip(percentile=50).thresholds
        {}

    References:
        Seetharaman et al., AutoClip: Adaptive Gradient Clipping for Source Separation Networks,
        2020, arXiv:2007.14469.
    """

    def __init__(self, percentile: float = 10.0, *, window: int = 1000) -> None:
        if not 0 < percentile <= 100:
            raise ValueError(f"`percentile` must be above 0 and at most 100, got {percentile}.")
        if window < 1:
            raise ValueError(f"`window` must be at least 1 step, got {window}.")
        super().__init__(percentile=percentile)
        self.percentile = percentile
        self.window = window
        self._memories: dict[int, NormMemory] = {}
        self._restored: dict[int, tuple[Tensor, int]] = {}

    @property
    def thresholds(self) -> dict[int, float]:
        """The present threshold of each optimizer that has stepped. Waits for the device."""
        return {i: float(m.percentile(self.percentile)) for i, m in self._memories.items()}

    def clip(self, index: int, optimizer: Any, scale: Tensor | None) -> None:
        """See `GradientClipper.clip`."""
        gradients = gradients_of(optimizer)
        if gradients:
            memory = self._memory(index, gradients[0].device)
            auto_clip_(gradients, memory, self.percentile, scale)

    def _memory(self, index: int, device: torch.device) -> NormMemory:
        memory = self._memories.get(index)
        if memory is None or memory.norms.device != device:
            known, seen = self._restored.pop(index, (torch.empty(0), 0))
            if memory is not None:
                known, seen = memory.newest(), int(memory.seen)
            memory = _filled(self.window, known, seen, device)
            self._memories[index] = memory
        return memory

    def state_dict(self) -> dict[str, Any]:
        """Return the norms of each optimizer, in plain tensors."""
        kept = {i: (known.clone(), seen) for i, (known, seen) in self._restored.items()}
        for index, memory in self._memories.items():
            kept[index] = (memory.newest().cpu().clone(), int(memory.seen))
        return {"norms": kept}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, also of another `window`."""
        self._memories.clear()
        self._restored = {
            int(index): (known, int(seen)) for index, (known, seen) in state_dict["norms"].items()
        }

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew, if the trainer does; what a checkpoint left has been restored by now."""
        if trainer.global_step == 0:
            self._memories.clear()
            self._restored.clear()


def _filled(window: int, known: Tensor, seen: int, device: torch.device) -> NormMemory:
    """Return a memory of norms, oldest first, as if it had seen them all."""
    memory = NormMemory(window, torch.zeros((), dtype=torch.float32, device=device))
    newest = known[-window:].to(memory.norms)
    count = len(newest)
    if count == window and count:
        # the next norm goes where the oldest one is, as the count of all says
        memory.norms.copy_(newest.roll(seen % window))
        memory.seen.fill_(seen)
    else:
        memory.norms[:count] = newest
        memory.seen.fill_(count)
    return memory
