"""What the losses of this folder share: which samples count, and how their losses become one.

As in torch, with two differences. A batch whose targets are all ignored gives 0 instead of NaN,
since one rank of many may well see such a batch. A sample whose loss would be NaN is left out of
the mean and of the gradient; if no other is left, the loss is NaN, so that a broken network never
looks like a perfect one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_diag.warning import warn

Reduction = Literal["mean", "sum", "none"]
REDUCTIONS: tuple[str, ...] = ("mean", "sum", "none")
# torch.compiler has it from 2.3 on
is_compiling: Callable[[], bool] = (
    getattr(torch.compiler, "is_compiling", None) or torch._utils.is_compiling
)
"""Returns whether torch.compile is reading this code."""


def check_reduction(reduction: str) -> None:
    """Refuse a reduction that torch does not have."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"`reduction` must be mean, sum or none, got {reduction!r}.")


def reduced(
    losses: Tensor,
    counted: Tensor,
    broken: Tensor,
    *,
    reduction: str = "mean",
    weights: Tensor | None = None,
    denominator: Tensor | None = None,
) -> Tensor:
    """Reduce losses as torch does.

    Args:
        losses: Finite where they do not count, or NaN would come back through the gradient.
        counted: Which of them do: neither ignored nor broken.
        broken: Which would be NaN.
        reduction: mean, sum or none.
        weights: What the mean is divided by in place of the number of losses that count.
        denominator: What it is divided by, whatever counts: a number above 0.

    Shape:
        `losses`, `counted`, `broken` and `weights` alike -> as well with ``none``, else ``()``.
        With ``none`` what is ignored is 0, and what is broken NaN.

    Example:
        >>> losses, yes = torch.tensor([2.0, 4.0, 0.0]), torch.tensor([True, True, False])
        >>> reduced(losses, yes, ~yes), reduced(losses, ~yes, yes & False)
        (tensor(3.), tensor(0.))
    """
    kept = losses * counted.to(losses.dtype)  # much faster than a mask on a CPU
    if reduction == "none":
        return kept.where(~broken, torch.nan)
    total = kept.sum()
    if reduction == "mean":
        if denominator is None:
            shares = counted.to(kept.dtype) if weights is None else weights.where(counted, 0.0)
            denominator = shares.sum()
            denominator = denominator.masked_fill(denominator == 0, 1.0)
        total = total / denominator
    return total.masked_fill(broken.any() & ~counted.any(), torch.nan)


def tensor_of(values: Sequence[float] | Tensor | float | None) -> Tensor | None:
    """Return numbers that may be given as a list as a tensor."""
    if values is None or isinstance(values, Tensor):
        return values
    return torch.tensor(values, dtype=torch.float32)


def exact(x: Tensor) -> Tensor:
    """Return numbers of 16 bits, and whole ones, in float32: losses of large logits fit there."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


class CountsNaN(nn.Module):
    """A loss that counts the samples it leaves out because their loss would be NaN.

    It warns of them once. To do so without holding up a GPU, it looks at the count at calls 1, 2,
    4, 8 and so on; on a CPU at each. Compiled code counts and does not warn.
    """

    def __init__(self) -> None:
        super().__init__()
        # neither parameter nor buffer: DDP would overwrite those with the numbers of rank 0
        self.nan_count = torch.zeros((), dtype=torch.int64, device="cpu")
        self._calls = 0
        self._warned = False

    def count_broken(self, broken: Tensor) -> None:
        """Add what was broken in a call."""
        self.nan_count = self.nan_count.to(broken.device) + broken.sum()
        if is_compiling() or self._warned:
            return
        self._calls += 1
        is_looked_at = broken.device.type == "cpu" or self._calls & (self._calls - 1) == 0
        if is_looked_at and (n := int(self.nan_count)):
            self._warned = True
            warn(
                f"`{type(self).__name__}` has left out {n} of its losses, which were NaN. It goes "
                "on doing so, and adds them up in `nan_count`."
            )
