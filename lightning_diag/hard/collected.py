"""The losses of the samples of one batch, as a sampler takes note of them."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_diag.probe.sample_watch import ADVICE, Seen


class Collected:
    """Adds up the loss calls of a batch, and takes classes from their targets.

    Args:
        needs_classes: Whether a batch without classes is a problem.
    """

    def __init__(self, *, needs_classes: bool) -> None:
        self._needs_classes = needs_classes
        self.losses: Tensor | None = None
        """``(samples,)``: see `Seen.losses`; None where none were seen."""
        self.classes: Tensor | None = None
        """``(samples,)``, whole numbers; None where targets are no classes."""

    def clear(self) -> None:
        """Begin a batch."""
        self.losses = self.classes = None

    def take(self, seen: Seen) -> None:
        """Add a loss call, if it is known which samples it is of."""
        if seen.indices is None:
            return
        new, old = seen.losses, self.losses
        if old is not None:
            counts = (new != -torch.inf) & (old != -torch.inf)
            new = torch.where(counts, new + old, torch.maximum(new, old))
        self.losses = new
        target = None if seen.call is None else seen.call.target
        if target is not None and target.shape == new.shape and not target.is_floating_point():
            self.classes = target.detach()

    def problem(self, indices: Tensor | None, reason: str) -> str:
        """Return what is missing, and what to do about it, in a sentence; empty if nothing is.

        Args:
            indices: Which samples the batch holds, None if that is not known.
            reason: Why no loss call is seen, if that is known.
        """
        if indices is None:
            return (
                "OHEMSampling cannot tell which samples a batch holds: its loader must be torch's "
                "DataLoader, iterated by Lightning itself and in order."
            )
        if self.losses is None:
            return (
                f"OHEMSampling saw no loss of each of the {len(indices)} samples of the batch"
                f"{reason}: {ADVICE}."
            )
        if self._needs_classes and self.classes is None:
            return (
                "OHEMSampling(keep_classes=True) takes classes from the targets of the loss, and "
                "these are not one whole number for each sample: leave `keep_classes` out."
            )
        return ""
