"""`DoublePrecisionInput`: data in twice the precision of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from lightning_diag.checks.base import Check
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.measure.data import leaves
from lightning_diag.wording import listing


@dataclass(frozen=True)
class DoublePrecisionInput(Check):
    """Tensors of float64 in batches for a module whose weights are float32 or less.

    What it sees:
        The floating-point tensors of a training batch as the module gets it, of at least `elements`
        elements, and the module's parameters. `bad` where the step fails because of it, else a
        note.

    Why it matters:
        A layer of float32 refuses float64. Where the step converts them, they have taken twice the
        memory, and twice the time to be collated and copied to the device, for digits that are
        dropped. A loss of float64 targets is float64 itself.

    What to do:
        Convert where samples are read: NumPy makes float64 of everything.

    References:
        PyTorch documentation of `from_numpy`: the tensor has the array's type.
    """

    code: ClassVar[str] = "double-precision-input"
    family: ClassVar[str] = "inputs"
    needs: ClassVar[tuple[str, ...]] = ("batch", "copy")

    elements: int = 1024
    """Elements of a tensor from which on it counts where the step runs, at least 1. Our choice:
    less takes no time, and Python's own numbers become float64 when they are collated."""

    def __post_init__(self) -> None:
        self._require("elements", least=1)

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        twin = subject.copy()
        if any(p.dtype is torch.float64 for p in twin.module.parameters()):
            return []
        batch = twin.moved(subject.batch())
        wide = {name: x for name, x in leaves(batch) if x.dtype is torch.float64}
        why = subject.lacks("gradients").lower() if wide else ""
        fails = "dtype" in why or "double" in why
        found = [name for name, x in wide.items() if fails or x.numel() >= self.elements]
        if not found:
            return []
        count = sum(wide[name].numel() for name in found)
        does = "and the training step fails" if fails else "and nothing needs them"
        return self.found(
            "bad" if fails else "note",
            f"{count:,} elements of a training batch are float64 (tensor {listing(found)}), while "
            f"the weights are not, {does}.",
            "Convert them to `torch.float32` where samples are read.",
            value=count,
            threshold=1 if fails else self.elements,
        )
