"""`LossRing`: the losses of the newest steps, without waiting for them and in one place (W10)."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_diag.measure.base import Columns, HostColumns
from lightning_diag.measure.moments import wide


class LossRing:
    """Keeps the losses of the newest steps: as numbers on the host, else on their device.

    There they are in one tensor that was made once. A tensor for each step, however small, would
    come to lie among the buffers that steps allocate and free, and keep the next step from finding
    them where the last one left them: on a CPU that costs new pages at every step.

    Args:
        slots: Steps that are kept, 1 or more.

    Example:
        >>> ring = LossRing(3)
        >>> ring.add(torch.tensor(1.0))
        >>> ring.add(torch.tensor(2.0))
        >>> ring.end_step()
        >>> columns = ring.take()
        >>> columns.sums.tolist()  # losses, and how many steps there are to each
        [[0.0, 0.0, 1.5, 0.0, 0.0, 1.0]]
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._host = [0.0] * slots
        self._cells: list[Tensor] = []
        self._sums = torch.empty(0)
        self._slot = self._micro = 0
        self._counts: list[int] = []

    def add(self, loss: Tensor) -> None:
        """Add the loss of a micro-batch to the step's."""
        mean = loss.float().mean() if loss.dim() else loss
        if not self._cells and is_on_host(mean):
            before = self._host[self._slot] if self._micro else 0.0
            self._host[self._slot] = before + mean.item()
        else:
            self._add_on_device(mean)
        self._micro += 1

    def _add_on_device(self, mean: Tensor) -> None:
        if not self._cells:
            sums = torch.tensor(self._host, dtype=wide(mean.device), device="cpu")
            self._sums = sums.to(mean.device, non_blocking=True)
            self._cells = list(self._sums.unbind())
        cell = self._cells[self._slot]
        if self._micro == 0:
            cell.copy_(mean, non_blocking=True)
        else:
            cell.add_(mean.to(cell.device, non_blocking=True))

    def end_step(self) -> None:
        """End the step, with whatever losses it had, none included."""
        self._counts.append(self._micro)
        if len(self._counts) > self._slots:
            del self._counts[0]
        self._slot, self._micro = (self._slot + 1) % self._slots, 0

    def take(self) -> Columns | None:
        """Return the losses since the last call, the newest last; None if there were none.

        Shape:
            sums ``(1, 2 * slots)``: the mean loss of each step, then 1 for each step that had one.
        """
        counts, self._counts = self._counts, []
        if not any(counts):
            return None
        if not self._cells:
            return self._host_columns(counts)
        sums = self._sums
        known = torch.zeros(self._slots, dtype=sums.dtype, device="cpu")
        known[self._slots - len(counts) :] = torch.tensor(counts, dtype=sums.dtype, device="cpu")
        known = known.to(sums.device, non_blocking=True)
        newest_last = sums.roll(-self._slot)
        losses = torch.where(known > 0, newest_last / known.clamp(min=1), torch.zeros_like(known))
        row = torch.cat([losses, known.clamp(max=1)]).unsqueeze(0)
        return Columns(row, row.new_zeros(1, 0))

    def _host_columns(self, counts: list[int]) -> Columns:
        first = self._slot - len(counts)
        means = [self._host[first + i] / count if count else 0.0 for i, count in enumerate(counts)]
        unknown = [0.0] * (self._slots - len(counts))
        known = [1.0 if count else 0.0 for count in counts]
        return HostColumns([[*unknown, *means, *unknown, *known]], [[]])


def is_on_host(loss: Tensor) -> bool:
    """Whether reading a number waits for nothing."""
    return loss.device.type == "cpu"
