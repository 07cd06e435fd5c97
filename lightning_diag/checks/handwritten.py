"""Differences of predictions and targets in losses that are written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_diag.checks.subject import Subject
from lightning_diag.measure.data import leaves

_MINUS = frozenset(
    {torch.sub, torch.subtract, torch.Tensor.sub, torch.Tensor.subtract, torch.Tensor.__sub__,
     torch.Tensor.__rsub__, torch.rsub}
)  # fmt: skip


class Differences(TorchFunctionMode):
    """Notes where a column of predictions meets a row of a batch's own targets.

    Args:
        batch: What the step is given.

    Example:
        >>> y = torch.zeros(3)
        >>> with Differences((y,)) as seen:
        ...     _ = torch.zeros(3, 1, requires_grad=True) - y
        >>> seen.broadcast
        ((3, 1), (3,))
    """

    def __init__(self, batch: Any) -> None:
        super().__init__()
        self.broadcast: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        """Shapes of the two, once there was one."""
        self._given = {x.data_ptr() for _, x in leaves(batch) if x.numel()}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _MINUS and len(args) > 1 and all(isinstance(x, Tensor) for x in args[:2]):
            self._look(args[0], args[1])
            self._look(args[1], args[0])
        return func(*args, **(kwargs or {}))

    def _look(self, x: Tensor, target: Tensor) -> None:
        is_column = x.requires_grad and x.dim() == 2 and x.shape[1] == 1 and len(x) > 1
        if is_column and target.shape == x.shape[:1] and target.data_ptr() in self._given:
            self.broadcast = tuple(x.shape), tuple(target.shape)


def broadcast_by_hand(subject: Subject) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return the shapes of predictions and targets that a step subtracts each from all.

    Raises:
        Unavailable: If the step fails.
    """
    twin = subject.copy()
    batch = twin.moved(subject.batch())
    seen = Differences(batch)
    with seen:
        twin.step(batch)
    return seen.broadcast
