"""`ShortMemory`: training takes more memory than there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from lightning_diag.checks.base import Check
from lightning_diag.checks.data import Unavailable
from lightning_diag.checks.footprint import Footprint, in_bytes, least_of
from lightning_diag.checks.memory import free_bytes, size_of
from lightning_diag.checks.pace import estimate_of
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved, Severity


@dataclass(frozen=True)
class ShortMemory(Check):
    """Training that takes more memory than there is.

    What it sees:
        What one training step of a copy adds to the weights: gradients, the optimizer's state, and
        the tensors that the forward pass keeps for the backward pass, each storage once; on CUDA
        the device's own peak, where that is higher. It counts from `fraction` of what is free, the
        memory of the copies counted as free. Where there is no room for copies, the gradients and
        the state that the optimizer is known to keep are compared with it alone. What single
        operations need in between is not seen.

    Why it matters:
        The run ends when memory does: at once, or at the first longer batch or validation.

    What to do:
        Take smaller batches and accumulate their gradients, a lower precision, or checkpoint
        activations; an optimizer with less state, or shard it over devices.

    References:
        Rajbhandari et al., ZeRO, 2020, arXiv:1910.02054 (what training keeps in memory).
    """

    code: ClassVar[str] = "short-memory"
    family: ClassVar[str] = "cost"

    fraction: float = 0.95
    """Share of the free memory from which on it counts, 0 to 1. Our choice: allocators lose a few
    percent, and validation comes on top."""

    def __post_init__(self) -> None:
        self._require("fraction", least=0.0, most=1.0)

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        reason = subject.lacks("memory")
        device = next((p.device for p in subject.original.parameters()), torch.device("cpu"))
        if reason:
            left = memory_left(subject, device)
            least = least_of(subject.original, _optimizers_there(subject))
            if left is None or least.to_come <= left:
                return self.not_observed(reason)
            return self._short(least, left, device)
        try:
            _ = subject.trial
            footprint = estimate_of(subject).footprint
        except Unavailable as why:
            if not ran_out(why):
                raise
            return self._ran_out(why, device)
        left = memory_left(subject, device)
        if left is None:
            return self.not_observed(f"how much memory is free on {device} is not known")
        if subject._memory is None:
            # Copies to run and to put back take some of it now, and are gone when training begins.
            left += size_of(subject.stepped.module) + size_of(subject.original)
        is_enough = footprint.to_come < self.fraction * left
        return [] if is_enough else self._short(footprint, left, device)

    def _ran_out(self, why: Unavailable, device: torch.device) -> list[Finding]:
        message = f"1 of 1 training steps on a copy ran out of memory on {device}: {why}."
        return self._found("suspect", message, 1, 1)

    def _short(self, need: Footprint, left: int, device: torch.device) -> list[Finding]:
        message = (
            f"Training takes {in_bytes(need.to_come)} beside the weights, and {in_bytes(left)} is "
            f"free on {device} (threshold {self.fraction:.0%}): gradients "
            f"{in_bytes(need.gradients)}, optimizer {in_bytes(need.optimizer)}, activations "
            f"{in_bytes(need.activations)} for one batch."
        )
        severity: Severity = "bad" if need.to_come > left else "suspect"
        return self._found(severity, message, need.to_come, self.fraction * left)

    def _found(
        self, severity: Severity, message: str, value: float, threshold: float
    ) -> list[Finding]:
        return self.found(
            severity,
            message,
            "Take smaller batches and set accumulate_grad_batches, set precision of "
            "`lightning.pytorch.Trainer`, or run blocks by `torch.utils.checkpoint.checkpoint`.",
            value=value,
            threshold=threshold,
        )


def ran_out(why: Unavailable) -> bool:
    """Return whether memory ended, on a device or on the host.

    Example:
        >>> ran_out(Unavailable("the step failed"))
        False
    """
    error: BaseException | None = why
    while error is not None:
        if isinstance(error, torch.cuda.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
            return True
        error = error.__cause__
    return False


def memory_left(subject: Subject, device: torch.device) -> int | None:
    """Return the bytes that may be taken, None where that is not known."""
    return subject._memory if subject._memory is not None else free_bytes(device)


def _optimizers_there(subject: Subject) -> list[object]:
    """Return the optimizers of a trainer; others would need a copy."""
    try:
        return list(subject.optimizers) if subject.trainer is not None else []
    except Unavailable:
        return []
