"""The targets that losses of classes are given, kept before they are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_diag.measure.data import leaves
from lightning_diag.measure.losses import BINARY_LOSSES, INDEX_LOSSES
from lightning_diag.probe.functions import FUNCTIONS, argument
from lightning_diag.probe.places import is_metric
from lightning_diag.probe.watch import running_module


@dataclass(frozen=True)
class Target:
    """The classes that one call of a loss function was given as target."""

    place: str
    """Module path and function, such as ``criterion/cross_entropy``."""
    values: Tensor
    """As given, on the host."""
    classes: int
    """Classes of the output; 2 for a loss of yes or no."""
    ignored: int | None
    """The target that does not count."""
    weighted: bool
    """Whether classes were given weights."""
    leaf: str
    """The tensor of the batch that it is, by name; empty where it is none of them."""

    @property
    def is_index(self) -> bool:
        """Whether the loss takes the index of a class, and was given numbers for one."""
        return not self.values.is_floating_point()

    @property
    def is_single(self) -> bool:
        """Whether there is one for each sample."""
        return self.values.dim() > 0 and self.values.numel() == len(self.values)

    def counted(self, values: Tensor) -> Tensor:
        """Return those of some targets that count, in one row."""
        flat = values.reshape(-1)
        return flat if self.ignored is None else flat[flat != self.ignored]


class TargetWatch(TorchFunctionMode):
    """Collects the targets of losses of classes before they are called: a call may fail.

    Args:
        modules: Path of each module that may be running, by ``id``.
        batch: What the step is given.
    """

    def __init__(self, modules: Mapping[int, str], batch: Any) -> None:
        super().__init__()
        self.found: list[Target] = []
        self._modules = modules
        self._leaves = leaves(batch)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        function = FUNCTIONS.get(func)
        if function is not None and function.name in INDEX_LOSSES | BINARY_LOSSES:
            x = args[0] if args else kwargs.get("input")
            target = argument(function.name, "target", args, kwargs)
            if isinstance(x, Tensor) and isinstance(target, Tensor) and x.dim():
                self._take(function.name, x, target, args, kwargs)
        return func(*args, **kwargs)

    def _take(self, function: str, x: Tensor, target: Tensor, args: Any, kwargs: Any) -> None:
        module = running_module(self._modules)
        is_index = function in INDEX_LOSSES
        if (module is not None and is_metric(module)) or (is_index and target.shape == x.shape):
            return  # a share for each class is no index
        path = "" if module is None else self._modules[id(module)]
        values = target.detach().cpu()
        if not is_index:
            if target.shape[:1] != (target.numel(),) or not bool(
                ((values == 0) | (values == 1)).all()
            ):
                return
            values = values.long()
        ignored = argument(function, "ignore_index", args, kwargs)
        if ignored is None and function in ("cross_entropy", "nll_loss"):
            ignored = -100
        named = ("weight", "pos_weight") if not is_index else ("weight",)
        self.found.append(
            Target(
                place=f"{path}/{function}" if path else function,
                values=values,
                classes=(x.shape[1] if x.dim() > 1 else x.shape[0]) if is_index else 2,
                ignored=ignored,
                weighted=any(argument(function, n, args, kwargs) is not None for n in named),
                leaf=self._leaf(target),
            )
        )

    def _leaf(self, target: Tensor) -> str:
        for name, x in self._leaves:
            # Yes and no may be converted to numbers in the step; numbers are no indices.
            may_be = target.is_floating_point() or not x.is_floating_point()
            if (
                may_be
                and x.numel() == target.numel()
                and torch.equal(x.reshape(-1).to(target.dtype), target.reshape(-1))
            ):
                return name
        return ""
